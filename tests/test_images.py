"""Names of images, and how a missing one is pulled. Real podman does it in tests/machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engines.images import full_name
from reconciler.engines.launch import Question
from reconciler.engines.preflight import SCRIPTS, key_of
from reconciler.model import Fetch, Staging
from reconciler.targets.systemd import images, podman
from reconciler.targets.systemd.container import names
from reconciler.targets.systemd.images import Images, pull_words
from reconciler.targets.systemd.preflight import contained

ASKED = Question(
    Path("python3"),
    ("--model", "/m"),
    (0, 1),
    {"HOME": "/var/cache/reconciler/1", "HF_TOKEN": "hunter2"},
    {},
    image="ab12",
)


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("vllm", "docker.io/library/vllm:latest"),
        ("vllm/vllm-openai:v1", "docker.io/vllm/vllm-openai:v1"),
        ("localhost/engine", "localhost/engine:latest"),
        ("registry.example.com/a/b:1", "registry.example.com/a/b:1"),
        ("registry:5000/a", "registry:5000/a:latest"),
        ("quay.io/a/b:1@sha256:00", "quay.io/a/b@sha256:00"),
        ("a/b@sha256:00", "docker.io/a/b@sha256:00"),
    ],
)
def test_a_name_means_what_it_means_to_the_hosts_of_a_cluster(written: str, full: str) -> None:
    assert full_name(written) == full


def test_a_local_image_is_found_by_its_tags_and_by_its_digests() -> None:
    listed = [
        {"Id": "1", "Names": ["docker.io/a/b:1", "localhost/c:2"], "RepoDigests": ["docker.io/a/b@sha256:00"]},
        {"Id": "2", "Names": None},
    ]
    assert names(listed) == {"docker.io/a/b:1": "1", "localhost/c:2": "1", "docker.io/a/b@sha256:00": "1"}


def test_a_name_is_no_option_of_podman() -> None:
    words = pull_words("docker.io/--help:1", "reconciler-pull-x.service", Path("/state/a b"))
    assert words[-2:] == ("--", "docker.io/--help:1")


def test_what_a_pull_leaves_is_removed_from_a_folder_of_any_name() -> None:
    """systemd looks for variables in what it is handed as it runs, but `%` stands for itself."""
    words = pull_words("quay.io/a:1", "reconciler-pull-x.service", Path('/state/100% $HOME "a'))
    assert '--property=ExecStopPost=-"/bin/rm" "-rf" "--" "/state/100% $$HOME \\"a"' in words


def test_the_folder_of_a_container_that_is_asked_may_have_any_name() -> None:
    asked = replace(ASKED, env={"HOME": "/var/cache/100% $HOME"})
    words = contained(asked, "reconciler-preflight-x.service", "engine", "990:980", (), 20)
    (prepare,) = [word for word in words if "ExecStartPre" in word]
    assert prepare.endswith(' "/var/cache/100% $$HOME"')


def test_a_pass_waits_once_for_a_podman_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every image and every service would wait for it anew, and systemd's watchdog would end the daemon."""
    calls, program = tmp_path / "calls", tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho >> {calls}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(images, "PODMAN", str(program))
    monkeypatch.setattr(podman, "_SECONDS", 2.0)
    host = Images("gpu-1", tmp_path / "images")
    found = {image: known for image, known in host.look(("a", "b", "c")).items() if isinstance(known, Staging)}
    assert [known.fetch for known in found.values()] == [Fetch.REFUSED] * 3
    assert all(known.reason and "did not answer within 2 s" in known.reason.message for known in found.values())
    assert calls.read_text().count("\n") == 1


def test_an_engine_is_asked_in_its_image_and_nowhere_else() -> None:
    words = contained(ASKED, "reconciler-preflight-x.service", "engine", "990:980", ("GPU-1",), 20)
    at = words.index("--")
    assert {"--property=PrivateNetwork=yes", "--property=RuntimeMaxSec=20", "--property=Nice=10"} <= {*words[:at]}
    assert words[-2:] == ["ab12", f"/run/reconciler-preflight/{SCRIPTS[0].name}"]
    assert {"--read-only", "--cap-drop=all", "--user=990:980", "--device=nvidia.com/gpu=GPU-1"} <= {*words[at:]}
    assert "hunter2" not in " ".join(words), "a token is of no use without a network"


def test_another_image_of_the_same_name_is_asked_again() -> None:
    other = Question(ASKED.python, ASKED.argv, ASKED.indices, ASKED.env, ASKED.paths, image="cd34")
    assert key_of(other) != key_of(ASKED)
