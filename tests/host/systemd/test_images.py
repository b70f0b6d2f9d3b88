"""Names of images, and how a missing one is pulled. Real podman does it in tests/machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.engines.environment import full_name
from reconciler.engines.launch import PreflightQuestion
from reconciler.engines.preflight import SCRIPTS, key_of
from reconciler.host.systemd import images, podman
from reconciler.host.systemd.images import Images, is_refusal, pull_arguments
from reconciler.host.systemd.podman import names
from reconciler.host.systemd.preflight import contained
from reconciler.host.systemd.systemd_api import Systemd, UnitOutcome
from reconciler.model import Fetch, Staging
from tests.support.arguments import written


class Ended(Systemd):
    """systemd, of which one unit ended so."""

    def __init__(self, outcome: UnitOutcome) -> None:
        super().__init__(())
        self._outcome = outcome

    def outcome(self, name: str) -> UnitOutcome:
        return self._outcome


ASKED = PreflightQuestion(
    Path("python3"),
    written("--model", "/m"),
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
def test_name_means_what_it_means_to_the_hosts_of_a_cluster(written: str, full: str) -> None:
    assert full_name(written) == full


def test_local_image_is_found_by_its_tags_and_by_its_digests() -> None:
    listed = [
        {"Id": "1", "Names": ["docker.io/a/b:1", "localhost/c:2"], "RepoDigests": ["docker.io/a/b@sha256:00"]},
        {"Id": "2", "Names": None},
    ]
    assert names(listed) == {"docker.io/a/b:1": "1", "localhost/c:2": "1", "docker.io/a/b@sha256:00": "1"}


def test_name_is_no_option_of_podman() -> None:
    words = pull_arguments("docker.io/--help:1", "reconciler-pull-x.service", Path("/state/a b"))
    assert words[-2:] == ("--", "docker.io/--help:1")


def test_what_a_pull_leaves_is_removed_from_a_folder_of_any_name() -> None:
    """systemd looks for variables in what it is handed as it runs, but `%` stands for itself."""
    words = pull_arguments("quay.io/a:1", "reconciler-pull-x.service", Path('/state/100% $HOME "a'))
    assert '--property=ExecStopPost=-"/bin/rm" "-rf" "--" "/state/100% $$HOME \\"a"' in words


def test_folder_of_a_container_that_is_asked_may_have_any_name() -> None:
    asked = replace(ASKED, env={"HOME": "/var/cache/100% $HOME"})
    words = contained(asked, "reconciler-preflight-x.service", "engine", "990:980", (), 20)
    (prepare,) = [word for word in words if "ExecStartPre" in word]
    assert prepare.endswith(' "/var/cache/100% $$HOME"')


@pytest.mark.parametrize(
    "why",
    [
        "reading manifest 1 in localhost:5000/a: manifest unknown",
        "reading manifest latest in docker.io/library/a: requested access to the resource is denied",
        'reading manifest 1 in pkg.dev/a: denied: Permission "artifactregistry.repositories" denied on resource',
        "reading manifest 1 in ghcr.io/a: denied: permission_denied: The token has expired.",
        "unable to retrieve auth token: invalid username/password: unauthorized: incorrect username or password",
        "reading manifest 1 in harbor/a: artifact a:1 not found",
        'reading manifest 1 in localhost:5000/a: StatusCode: 404, "404 page not found"',
        "name unknown: The repository with name 'a' does not exist in the registry with id '1'",
        "choosing an image from manifest list: no image found in manifest list for architecture arm64",
    ],
)
def test_registry_that_says_no_is_told_from_one_that_fails(why: str) -> None:
    assert is_refusal(why)


@pytest.mark.parametrize(
    "why",
    [
        "open /run/containers/0/auth.json: permission denied",
        "dial tcp 10.0.0.1:443: connect: Permission denied",
        'error getting credentials - err: exec: "docker-credential-x": executable file not found in $PATH',
        "writing blob: storing blob to file: open /srv/images/storage1: no such file or directory",
        "stat /var/lib/containers/storage: file does not exist",
        "pinging container registry a: Get https://a/v2/: dial tcp: lookup a: no such host",
        "fetching blob: received unexpected HTTP status: 502 Bad Gateway",
    ],
)
def test_what_lacks_on_this_host_is_no_answer_of_a_registry(why: str) -> None:
    """It may be fixed at any moment, so it is retried."""
    assert not is_refusal(why)


def test_pull_from_a_registry_that_fell_silent_ends_and_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = pull_arguments("quay.io/a:1", "reconciler-pull-x.service", tmp_path)
    assert "--property=RuntimeMaxSec=6h" in words
    (tmp_path / "podman").write_text("#!/bin/sh\necho '[]'\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setattr(images, "PODMAN", str(tmp_path / "podman"))
    # It says so as it is ended, and that is no answer of the registry.
    monkeypatch.setattr(images, "tail_journal", lambda *_: ("Error: access denied: context canceled",))
    systemd = Ended(UnitOutcome("failed", "timeout", 1))
    known = Images("gpu-1", tmp_path / "images", systemd).look(["quay.io/a:1"])["quay.io/a:1"]
    assert known is not None
    assert known.reason is not None
    assert (known.fetch, known.failures) == (Fetch.FAILED, 1)
    assert "it was not done after 6 h" in known.reason.message


@pytest.mark.slow
def test_pass_waits_once_for_a_podman_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every image and every service would wait for it again, and systemd's watchdog would end the daemon."""
    calls, program = tmp_path / "calls", tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho >> {calls}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(images, "PODMAN", str(program))
    monkeypatch.setattr(podman, "_SECONDS", 2.0)
    host = Images("gpu-1", tmp_path / "images", Systemd(()))
    found = {image: known for image, known in host.look(("a", "b", "c")).items() if isinstance(known, Staging)}
    assert [known.fetch for known in found.values()] == [Fetch.REFUSED] * 3
    assert all(known.reason and "did not end within 2 s" in known.reason.message for known in found.values())
    assert calls.read_text().count("\n") == 1


@pytest.mark.parametrize("answer", ["WARN[0000] no such storage", "null", '["a"]'])
def test_podman_that_answers_nonsense_is_no_end_of_the_pass(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(images, "PODMAN", str(program))
    known = Images("gpu-1", tmp_path / "images", Systemd(())).look(["a"])["a"]
    assert known is not None
    assert known.reason is not None
    assert (known.fetch, known.reason.code) == (Fetch.REFUSED, "PodmanNotFound")
    assert "its output is not a list of images" in known.reason.message


def test_engine_is_asked_in_its_image_and_nowhere_else() -> None:
    words = contained(ASKED, "reconciler-preflight-x.service", "engine", "990:980", ("GPU-1",), 20)
    at = words.index("--")
    assert {"--property=PrivateNetwork=yes", "--property=RuntimeMaxSec=20", "--property=Nice=10"} <= {*words[:at]}
    assert words[-2:] == ["python3", f"/run/reconciler-preflight/{SCRIPTS[0].name}"]
    assert {"ab12", "--read-only", "--cap-drop=all", "--user=990:980", "--device=nvidia.com/gpu=GPU-1"} <= {*words[at:]}
    assert "hunter2" not in " ".join(words), "a token is of no use without a network"


def test_another_image_of_the_same_name_is_asked_again() -> None:
    other = PreflightQuestion(ASKED.python, ASKED.argv, ASKED.env, ASKED.paths, image="cd34")
    assert key_of(other) != key_of(ASKED)
