"""The demo's parts on a real git and real files; the whole of it runs in tests/e2e/test_demo.py."""

from __future__ import annotations

import socket
import stat
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml

from reconciler.config.settings import Settings
from reconciler.demo import run
from reconciler.demo.narrator import Narrator
from reconciler.demo.place import (
    DemoFolder,
    default_folder,
    find_interpreter,
    is_free,
    open_folder,
    write_config,
)
from reconciler.demo.repository import Repository, find_layout
from reconciler.errors import SettingsError, Terminal
from tests.support.git_repository import git

MANIFEST = "demo/tiny.yaml"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repo.git", tmp_path / "work")
    repository.create(find_layout())
    return repository


def test_repository_begins_with_every_file_of_the_layout(repository: Repository) -> None:
    listed = git(repository.origin, "ls-tree", "-r", "--name-only", "main").splitlines()
    layout = find_layout()
    assert listed == sorted(str(path.relative_to(layout)) for path in layout.rglob("*") if path.is_file())
    assert MANIFEST in listed


def test_repository_that_is_there_is_taken_up(repository: Repository, tmp_path: Path) -> None:
    repository.edit(MANIFEST, r"--max-num-seqs=\d+", "--max-num-seqs=3")
    pushed = repository.push("Change it")
    again = Repository(repository.origin, tmp_path / "work")
    again.create(find_layout())
    assert again.head() == pushed == git(repository.origin, "rev-parse", "main")
    assert again.holds(MANIFEST, "--max-num-seqs=3")


def test_repository_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "repo.git.partial" / "objects").mkdir(parents=True)
    (tmp_path / "repo.git").mkdir()
    repository = Repository(tmp_path / "repo.git", tmp_path / "work")
    repository.create(find_layout())
    assert repository.head() == git(repository.origin, "rev-parse", "main")


def test_edit_says_where_and_changes_nothing_else(repository: Repository, tmp_path: Path) -> None:
    before = (tmp_path / "work" / MANIFEST).read_text().splitlines()
    said = repository.edit(MANIFEST, r"--max-model-len\b", "--max-modle-len")
    after = (tmp_path / "work" / MANIFEST).read_text().splitlines()
    changed = [number for number, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new]
    assert said == f"{MANIFEST}:{changed[0]}: {after[changed[0] - 1].strip()}"
    assert len(changed) == 1


def test_edit_of_what_is_gone_says_what_to_do(repository: Repository) -> None:
    with pytest.raises(Terminal, match="--dir"):
        repository.edit(MANIFEST, "--no-such-flag", "x")


def test_revert_brings_back_the_tree_of_before(repository: Repository) -> None:
    before = git(repository.origin, "rev-parse", "main^{tree}")
    repository.edit(MANIFEST, r"--max-model-len\b", "--max-modle-len")
    bad = repository.push("Misspell it")
    fixed = repository.revert()
    assert fixed != bad
    assert git(repository.origin, "rev-parse", "main^{tree}") == before


def test_git_settings_of_the_user_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[core]\n\thooksPath = {hooks}\n[commit]\n\tgpgSign = true\n[init]\n\tdefaultBranch = trunk\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    repository = Repository(tmp_path / "repo.git", tmp_path / "work")
    repository.create(find_layout())
    assert (tmp_path / "repo.git" / "refs" / "heads" / "main").exists()


@pytest.fixture
def place(tmp_path: Path) -> DemoFolder:
    return open_folder(tmp_path / "demo")


def test_folder_is_for_our_eyes_only(place: DemoFolder) -> None:
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700


def test_config_is_what_the_daemon_reads_and_stays_when_written_again(place: DemoFolder) -> None:
    first = write_config(place, Path(sys.executable), None)
    written = place.config.stat().st_mtime_ns
    assert write_config(place, Path(sys.executable), None) == first == Settings.load(place.config)
    assert place.config.stat().st_mtime_ns == written
    assert first.targets[0].own_path == "demo"
    assert is_free(first.targets[0].routing.listen)
    assert first.web.url == f"http://{first.web.listen}"


def test_port_that_was_asked_for_is_taken(place: DemoFolder) -> None:
    write_config(place, Path(sys.executable), None)
    assert write_config(place, Path(sys.executable), 18999).targets[0].routing.listen == "127.0.0.1:18999"


def test_port_of_an_earlier_run_that_somebody_took_is_given_up(place: DemoFolder) -> None:
    host, _, port = write_config(place, Path(sys.executable), None).targets[0].routing.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        assert write_config(place, Path(sys.executable), None).targets[0].routing.listen != f"{host}:{port}"


def test_taken_port_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert not is_free(address)


def test_demo_on_a_taken_port_says_so_before_it_makes_anything(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(SettingsError, match="something listens there already"),
    ):
        run(folder=tmp_path / "demo", port=listener.getsockname()[1], python=Path(sys.executable))
    assert not (tmp_path / "demo" / "config.yaml").exists()


def test_missing_interpreter_is_named(place: DemoFolder) -> None:
    with pytest.raises(SettingsError, match="--python /no/such/python"):
        find_interpreter(Path("/no/such/python"), place)
    with pytest.raises(SettingsError, match=r"deploy/demo\.sh"):
        find_interpreter(None, place)


def test_interpreter_of_an_earlier_run_is_used_again(place: DemoFolder) -> None:
    write_config(place, Path(sys.executable), None)
    assert find_interpreter(None, place) == Path(sys.executable)


def test_folder_without_a_home_is_a_temporary_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("HOME")
    assert default_folder().parent == tmp_path
    monkeypatch.setenv("HOME", "/no/such/home")
    assert default_folder().parent == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "reconciler-demo"


def test_stop_of_nothing_succeeds(tmp_path: Path) -> None:
    assert run(stop=True, folder=tmp_path / "demo") == 0


def test_narrator_repeats_nothing() -> None:
    stream = StringIO()
    say = Narrator(stream)
    for text in ("starting", "starting", "ready", ""):
        say.progress(text, "requests 3")
    said = [line.partition(" s  ")[2] for line in stream.getvalue().splitlines()]
    assert said == ["starting  [requests 3]", "ready  [requests 3]"]


def documents(path: Path) -> list[dict[str, object]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def test_every_document_of_the_layout_names_its_kind() -> None:
    found = {path.stem: documents(path)[0]["kind"] for path in find_layout().rglob("*.yaml")}
    assert set(found.values()) == {"Host", "Cluster", "ServingRuntime", "InferenceService"}
    assert found["vllm-runtime"] == "ServingRuntime"


def test_each_host_and_cluster_folder_holds_its_own_file() -> None:
    layout = find_layout()
    for folder in layout.glob("hosts/*"):
        assert documents(folder / "host.yaml")[0]["metadata"] == {"name": folder.name}
    for folder in layout.glob("clusters/*"):
        assert documents(folder / "cluster.yaml")[0]["metadata"] == {"name": folder.name}
    assert documents(layout / "demo" / "host.yaml")[0]["kind"] == "Host"
