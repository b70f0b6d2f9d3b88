"""Kustomizations: what is built, what is read as it is, and what is refused, alike for git and for folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.settings import HostSettings, SourceSettings
from reconciler.desired import build_desired
from reconciler.errors import Retryable
from reconciler.evaluation.evaluator import Evaluator
from reconciler.evaluation.sandbox import Sandbox
from reconciler.host.rollout.pruning import reason_to_keep
from reconciler.manifests import ManifestCache, Manifests, find_supporting, narrow, read_manifests, read_paths
from reconciler.manifests.kustomize import Program
from reconciler.model import DesiredState, File, Origin, Owned, Reason, ServiceId, Snapshot
from reconciler.source import GitSource
from reconciler.system import procfs
from tests.desired.test_desired import HOST, RUNTIME, SERVICE
from tests.support.examples import examples
from tests.support.git_repository import Repository

TARGET = HostSettings.model_validate({"name": "box", "paths": ["runtimes", "hosts/box"], "default_namespace": "team"})
LIST = "resources: [chat.yaml]\n"
PATCH = """\
namePrefix: prod-
namespace: models
resources: [../../base]
patches:
- target: {kind: InferenceService}
  patch: |-
    - {op: replace, path: /spec/predictor/model/args/1, value: "256"}
    - {op: add, path: /spec/predictor/model/args/-, value: --enforce-eager}
- path: memory.yaml
"""
MEMORY = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: chat}
spec: {predictor: {model: {resources: {requests: {memory: 3Gi}}}}}
"""
TREE = {
    "runtimes/vllm.yaml": RUNTIME.replace("kind: ServingRuntime", "kind: ClusterServingRuntime"),
    "hosts/box/host.yaml": HOST,
    "base/chat.yaml": SERVICE,
    "base/kustomization.yaml": LIST,
    "hosts/box/kustomization.yaml": PATCH,
    "hosts/box/memory.yaml": MEMORY,
}


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch) -> str:
    """A program that builds, first on PATH."""
    folder = Path(os.environ.get("RECONCILER_TEST_KUBECTL") or "/nonexistent", "bin")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which("kubectl", path=path) or shutil.which("kustomize", path=path)
    if found is None:
        pytest.skip("no kubectl: run tests/run.sh once, or set RECONCILER_TEST_KUBECTL to an environment of it")
    monkeypatch.setenv("PATH", path)
    return found


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: None)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repo")


def commit(repository: Repository, files: dict[str, str], *more_paths: str) -> Snapshot:
    for name, text in files.items():
        repository.write(name, text)
    repository.commit()
    paths = (*TARGET.paths, *more_paths)
    return GitSource(SourceSettings(url=str(repository.path)), repository.path.parent / "git", paths).poll()


def look(snapshot: Snapshot, cache: ManifestCache | None = None) -> Manifests:
    return read_manifests(narrow(snapshot, TARGET.paths), cache, TARGET.paths)


def desired(snapshot: Snapshot) -> DesiredState:
    return build_desired(look(snapshot), TARGET, narrow(snapshot, TARGET.paths))


def origins(reasons: tuple[Reason, ...]) -> list[tuple[str, int]]:
    return [(reason.origin.file, reason.origin.line) for reason in reasons if reason.origin]


def services(found: Manifests) -> list[str]:
    return [each.name for each in found.of_kind("InferenceService")]


def test_overlay_with_patches_is_built_with_lines_of_its_base(kubectl: str, repository: Repository) -> None:
    found = look(commit(repository, TREE))
    (service,) = found.of_kind("InferenceService")
    assert (service.namespace, service.name) == ("models", "prod-chat")
    assert service.data["metadata"] == {"name": "prod-chat", "namespace": "models"}
    model = service.data["spec"]["predictor"]["model"]
    assert model["args"] == ["--max-model-len", "256", "--enforce-eager"]
    assert model["resources"] == {"requests": {"memory": "3Gi"}}
    assert service.origin == Origin("base/chat.yaml", 1)
    path = ("spec", "predictor", "model")
    assert service.line_of((*path, "storageUri")) == 10
    # What a patch added has the line of what it was added to.
    assert [service.line_of((*path, "args", index)) for index in range(3)] == [12, 11, 11]
    assert found.errors == ()
    assert sorted(each.kind for each in found.documents) == ["ClusterServingRuntime", "Host", "InferenceService"]


@pytest.mark.slow
def test_command_and_daemon_read_an_overlay_alike(kubectl: str, repository: Repository) -> None:
    snapshot = commit(repository, TREE)
    theirs = look(snapshot)
    ours = read_paths([repository.path / "runtimes", repository.path / "hosts" / "box"])

    def facts(found: Manifests, top: str) -> list[object]:
        return [
            (each.data, each.origin.file.removeprefix(top), each.origin.line, each.line_of(("spec", "predictor")))
            for each in sorted(found.documents, key=lambda each: each.kind)
        ]

    assert facts(ours, f"{repository.path}/") == facts(theirs, "")
    assert ours.errors == theirs.errors == ()


@pytest.mark.slow
@pytest.mark.slow
def test_worker_of_a_daemon_builds_every_revision(kubectl: str, repository: Repository) -> None:
    """Also of files that it knows from the one before."""
    sandbox = Sandbox((TARGET,))
    memories = ["3Gi", "4Gi", "4Gi"]
    try:
        for count, memory in enumerate(memories):
            more = {f"hosts/box/more-{count}.yaml": "a: 1\n"}
            snapshot = commit(repository, {**TREE, **more, "hosts/box/memory.yaml": MEMORY.replace("3Gi", memory)})
            state = sandbox.target("box").evaluate(snapshot)
            assert state == Evaluator(TARGET).evaluate(snapshot)
            (service,) = state.services
            assert str(service.id) == "models/prod-chat"
    finally:
        sandbox.close()


ALIASES = "\n".join(
    [
        "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 5)),
    ]
)


@pytest.mark.parametrize(
    "covering",
    [
        {"hosts/box/kustomization.yaml": "resources: [\n"},
        {"hosts/box/kustomization.yaml": "namePrefix: a-\nresources: [missing.yaml]\n"},
        pytest.param({f"hosts/box/a{each}.yaml": ALIASES for each in range(5)}, marks=pytest.mark.slow),
    ],
)
def test_file_that_was_not_read_is_not_empty_in_the_next_revision(
    covering: dict[str, str], repository: Repository
) -> None:
    """The worker does not get again what it knows, and knows only what it read."""
    sandbox = Sandbox((TARGET,))
    plain = {"runtimes/vllm.yaml": RUNTIME, "hosts/box/host.yaml": HOST, "hosts/box/chat.yaml": SERVICE}
    try:
        (before,) = sandbox.target("box").evaluate(commit(repository, plain)).services
        covered = sandbox.target("box").evaluate(commit(repository, covering))
        assert (covered.services, bool(covered.unreadable)) == ((), True)
        for name in covering:
            (repository.path / name).unlink()
        assert sandbox.target("box").evaluate(commit(repository, {})).services == (before,)
    finally:
        sandbox.close()


def test_change_without_a_program_is_unusable_and_prunes_nothing(no_program: None, repository: Repository) -> None:
    state = desired(commit(repository, TREE))
    assert state.services == ()
    assert origins(state.unreadable) == [("hosts/box/kustomization.yaml", 1)]
    assert "namePrefix changes what it lists" in state.unreadable[0].message
    assert "install kustomize or kubectl" in state.unreadable[0].message
    kept = reason_to_keep(state, Owned(ServiceId("models", "prod-chat"), Origin("base/chat.yaml", 1)), ())
    assert kept is not None
    assert kept.origin == Origin("hosts/box/kustomization.yaml", 1)


def test_list_alone_is_read_as_it_is_without_a_program(no_program: None, repository: Repository) -> None:
    files = {**TREE, "hosts/box/kustomization.yaml": "resources:\n- ../../base\n- host.yaml\n"}
    state = desired(commit(repository, files))
    assert [(str(each.id), each.origin) for each in state.services] == [("team/chat", Origin("base/chat.yaml", 1))]
    assert (state.unreadable, state.refused, state.prunable) == ((), (), True)
    assert ("hosts/box/kustomization.yaml", 1) in origins(state.notes)


REMOTE = {
    "a base": "resources:\n- chat.yaml\n- https://example.com/org/repo//base?ref=v1\n",
    "a base of git": "resources:\n- chat.yaml\n- github.com/org/repo//base\n",
    "a base by ssh": "resources:\n- chat.yaml\n- git@example.com:org/repo\n",
    "a component": "resources:\n- chat.yaml\ncomponents: ['ssh://example.com/x']\n",
    "data": "resources:\n- chat.yaml\nconfigMapGenerator: [{name: a, files: ['k=HTTPS://127.0.0.1/x']}]\n",
    "a patch": "resources:\n- chat.yaml\npatches: [{path: 'http://127.0.0.1/x.yaml'}]\n",
    "a schema": "resources:\n- chat.yaml\nopenapi: {path: 'http://127.0.0.1/x.json'}\n",
    "a generator": "resources:\n- chat.yaml\ngenerators: [generator.yaml]\n",
    "folders of generators": "resources:\n- chat.yaml\ngenerators: [.]\n",
    "a chart": "resources:\n- chat.yaml\nhelmCharts: [{name: vllm}]\n",
    "a file outside": "resources:\n- chat.yaml\n- ../../../../etc/passwd\n",
    "an absolute file": "resources:\n- chat.yaml\n- /etc/passwd\n",
    "a lost file": "resources:\n- chat.yaml\n- lost.yaml\n",
    "a link": "resources:\n- chat.yaml\n- link.yaml\n",
    "itself": "resources:\n- chat.yaml\n- .\n",
}


@pytest.mark.parametrize("text", REMOTE.values(), ids=REMOTE)
def test_what_is_not_in_the_revision_is_refused_before_a_build(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, text: str
) -> None:
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program("/nonexistent", ()))
    generator = "apiVersion: builtin\nkind: ConfigMapGenerator\nfiles: ['http://127.0.0.1/x']\n"
    repository.write("other/link.yaml", SERVICE)
    (repository.path / "hosts/box").mkdir(parents=True)
    (repository.path / "hosts/box/link.yaml").symlink_to("../../other/link.yaml")
    files = {
        "hosts/box/generator.yaml": generator,
        "hosts/box/chat.yaml": SERVICE,
        "hosts/box/kustomization.yaml": text,
    }
    found = look(commit(repository, files))
    (error,) = [each for each in found.errors if each.code == "KustomizationNotBuilt"]
    file = "generator.yaml" if "generator.yaml" in text else "kustomization.yaml"
    assert error.origin == Origin(f"hosts/box/{file}", 3)
    assert services(found) == []


MISTYPED = {
    "a kind": f"kind: Kustomizaton\nnamePrefix: prod-\n{LIST}",
    "a kind that is no text": f"kind: 3\nnamePrefix: prod-\n{LIST}",
    "a group": f"apiVersion: kustomise.config.k8s.io/v1beta1\nkind: Kustomization\nnamePrefix: prod-\n{LIST}",
    "no group": f"apiVersion: v1\nkind: Kustomization\nnamePrefix: prod-\n{LIST}",
    "a name with a line break": "resources:\n- |\n  chat.yaml\n",
    "another case": f"{LIST}Generators: [generator.yaml]\n",
    "a long s": "re\u017fources: [chat.yaml]\n",
    "instructions with an address": (
        f"{LIST}generators:\n- |\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  files: ['http://127.0.0.1/x']\n"
    ),
    "instructions that are no YAML": f"{LIST}transformers:\n- |\n  a: [\n",
}


@pytest.mark.parametrize("text", MISTYPED.values(), ids=MISTYPED)
def test_mistyped_kustomization_is_unusable_and_never_passed_over(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, text: str
) -> None:
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program("/nonexistent", ()))
    files = {"hosts/box/host.yaml": HOST, "hosts/box/chat.yaml": SERVICE, "hosts/box/kustomization.yaml": text}
    found = look(commit(repository, files))
    assert services(found) == []
    (error,) = found.errors
    assert error.origin
    assert error.origin.file == "hosts/box/kustomization.yaml"
    assert "does not run" not in error.message
    assert "\n" not in error.message


def test_object_of_another_tool_is_no_kustomization(no_program: None, repository: Repository) -> None:
    flux = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps}\n"
    files = {"hosts/box/host.yaml": HOST, "hosts/box/chat.yaml": SERVICE, "hosts/box/kustomization.yaml": flux}
    found = look(commit(repository, files))
    assert (services(found), found.errors) == (["chat"], ())


@pytest.mark.slow
def test_instructions_in_a_kustomization_may_name_files(kubectl: str, repository: Repository) -> None:
    made = "  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: chat}\n  files: [a=chat.jinja]\n"
    files = {
        "hosts/box/kustomization.yaml": f"{LIST}generators:\n- |\n{made}",
        "hosts/box/chat.yaml": SERVICE,
        "hosts/box/chat.jinja": "{{ messages }}",
    }
    (found,) = look(commit(repository, files)).of_kind("ConfigMap")
    assert found.data["data"] == {"a": "{{ messages }}"}


@pytest.mark.slow
def test_kustomization_of_the_whole_repository_is_built(
    kubectl: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("kustomization.yaml", "nameSuffix: -a\nresources: [it's here/chat.yaml, host.yaml]\n")
    repository.write("it's here/chat.yaml", SERVICE)
    repository.write("host.yaml", HOST)
    repository.commit()
    snapshot = GitSource(SourceSettings(url=str(repository.path)), repository.path.parent / "git", ("",)).poll()
    monkeypatch.chdir(repository.path)
    for found in (read_manifests(snapshot), read_paths([Path()])):
        (service,) = found.of_kind("InferenceService")
        assert (service.name, service.origin) == ("chat-a", Origin("it's here/chat.yaml", 1))
        assert [each.name for each in found.of_kind("Host")] == ["box"]


@pytest.mark.slow
def test_base_that_an_overlay_uses_is_not_served_as_well(kubectl: str, repository: Repository) -> None:
    files = {
        "hosts/box/host.yaml": HOST,
        "hosts/box/base/chat.yaml": SERVICE,
        "hosts/box/base/kustomization.yaml": LIST,
        "hosts/box/base/old.yaml": SERVICE.replace("name: chat", "name: old"),
        "hosts/box/alone.yaml": SERVICE.replace("name: chat", "name: alone"),
        **{
            f"hosts/box/overlays/{name}/kustomization.yaml": f"nameSuffix: -{name}\nresources: [../../base]\n"
            for name in ("dev", "prod")
        },
    }
    found = look(commit(repository, files))
    assert services(found) == ["alone", "chat-dev", "chat-prod"]
    assert origins(tuple(each for each in found.notes if each.code == "NotInKustomization")) == [
        ("hosts/box/base/old.yaml", 1)
    ]


@pytest.mark.slow
def test_base_in_a_folder_of_another_target_is_used(kubectl: str, repository: Repository) -> None:
    """Which folders others read changes nothing for a target: only a part of the tree is its own."""
    overlays = {f"hosts/other/{name}": TREE[f"hosts/box/{name}"] for name in ("kustomization.yaml", "memory.yaml")}
    files = {**TREE, **overlays}
    alone = desired(commit(repository, files))
    assert [str(each.id) for each in alone.services] == ["models/prod-chat"]
    assert desired(commit(repository, files, "base", "hosts/other")) == replace(
        alone, revision=repository.git("rev-parse", "HEAD")
    )


@pytest.mark.slow
def test_kustomization_of_a_path_decides_over_all_below_it(kubectl: str, repository: Repository) -> None:
    files = {
        "hosts/box/host.yaml": HOST,
        "hosts/box/kustomization.yml": "nameSuffix: -a\nresources: [chat.yaml]\n",
        "hosts/box/chat.yaml": SERVICE,
        "hosts/box/more/Kustomization": "resources: [new.yaml]\n",
        "hosts/box/more/new.yaml": SERVICE.replace("name: chat", "name: new"),
    }
    state = desired(commit(repository, files))
    assert [str(each.id) for each in state.services] == ["team/chat-a"]
    (note,) = [each for each in state.notes if each.code == "NotInKustomization"]
    assert (note.origin, "../kustomization.yml" in note.message) == (Origin("hosts/box/more/new.yaml", 1), True)
    assert state.host_known


@pytest.mark.slow
def test_generated_config_map_reads_files_of_any_name(kubectl: str, repository: Repository) -> None:
    files = {
        "hosts/box/kustomization.yaml": f"{LIST}configMapGenerator:\n- name: chat\n  files: [a=chat.jinja]\n",
        "hosts/box/chat.yaml": SERVICE,
        "hosts/box/chat.jinja": "{{ messages }}",
    }
    (made,) = look(commit(repository, files)).of_kind("ConfigMap")
    assert made.data["data"] == {"a": "{{ messages }}"}
    assert made.origin == Origin("hosts/box/kustomization.yaml", 2)


@pytest.mark.slow
def test_failed_build_says_why_in_the_names_of_the_repository(kubectl: str, repository: Repository) -> None:
    files = {**TREE, "hosts/box/memory.yaml": MEMORY.replace("name: chat", "name: other")}
    state = desired(commit(repository, files))
    assert origins(state.unreadable) == [("hosts/box/kustomization.yaml", 1)]
    assert "no matches for Id" in state.unreadable[0].message or "no resource matches" in state.unreadable[0].message
    assert "/tmp" not in state.unreadable[0].message
    assert "accumulat" not in state.unreadable[0].message
    outside = commit(repository, {**TREE, "hosts/box/kustomization.yaml": PATCH.replace("memory", "../memory")})
    assert origins(desired(outside).unreadable) == [("hosts/box/kustomization.yaml", 1)]


def test_program_that_builds_reaches_no_network(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(["unshare", "--net", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("this kernel gives nobody a network of its own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = tmp_path / "kustomize"
        script.write_text(f"#!/bin/bash\n(: </dev/tcp/127.0.0.1/{server.getsockname()[1]}) || exit 7\n")
        script.chmod(0o755)
        assert subprocess.run([script], check=False).returncode == 0
        server.accept()[0].close()
        monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
        (reason,) = desired(commit(repository, TREE)).unreadable
        assert "unreachable" in reason.message


@pytest.mark.parametrize("how", ["a link", "too large", "no text"])
def test_kustomization_that_is_refused_has_nothing_served_raw(
    how: str, no_program: None, repository: Repository
) -> None:
    file = repository.path / "hosts/box/kustomization.yaml"
    for name, text in {**TREE, "hosts/box/chat.yaml": SERVICE}.items():
        repository.write(name, text)
    if how == "a link":
        file.unlink()
        file.symlink_to("../../base/kustomization.yaml")
    else:
        file.write_bytes(b"#" * (2 << 20) + b"InferenceService" if how == "too large" else b"a: \0InferenceService")
    repository.commit()
    snapshot = GitSource(SourceSettings(url=str(repository.path)), repository.path.parent / "git", TARGET.paths).poll()
    ours = read_paths([repository.path / "hosts/box"])
    for found in (look(snapshot), ours):
        assert [each.kind for each in found.documents if each.kind != "ClusterServingRuntime"] == ["Host"]
        assert [each.origin.file.endswith("box/kustomization.yaml") for each in found.errors if each.origin] == [True]


def test_build_that_takes_too_much_is_a_fault_of_its_files(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, tmp_path: Path
) -> None:
    script = tmp_path / "kustomize"
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
    snapshot = commit(repository, TREE)
    for body, why in {
        "yes": "more than 8 MiB",
        "kill -XCPU $$": "of computing",
        "exit 3": "without output",
        "echo": "nothing is left",
        "echo '# done'": "nothing is left",
        "echo done": "not all objects",
        "echo '{a: 1}'": "not all objects",
        "echo '{kind: Foo, apiVersion: v1'": "cannot be read",
    }.items():
        script.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        script.chmod(0o755)
        (reason,) = desired(snapshot).unreadable
        assert why in reason.message


def test_build_that_the_machine_ends_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, tmp_path: Path
) -> None:
    """Nothing was learned about the files, and what is remembered is only built again once they change."""
    script = tmp_path / "kustomize"
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
    snapshot, cache = commit(repository, TREE), ManifestCache()
    script.write_text("#!/bin/sh\nkill -KILL $$\n")
    script.chmod(0o755)
    with pytest.raises(OSError, match="was killed"):
        look(snapshot, cache)
    with script.open("a"), pytest.raises(OSError, match="Text file busy"):
        look(snapshot, cache)
    script.write_text(f"#!/bin/sh\n/bin/echo '{json.dumps(yaml.safe_load(SERVICE))}'\n")
    assert services(look(snapshot, cache)) == ["chat"]


def test_build_that_takes_too_long_leaves_no_process_behind(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, tmp_path: Path
) -> None:
    script, pid = tmp_path / "kustomize", tmp_path / "pid"
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
    monkeypatch.setattr("reconciler.manifests.kustomize._SECONDS", 0.5)
    script.write_text(f"#!/bin/sh\n/bin/sleep 300 &\necho $! > {pid}\nwait\n")
    script.chmod(0o755)
    with pytest.raises(TimeoutError):
        desired(commit(repository, TREE))
    deadline = time.monotonic() + 20
    while (left := procfs.identify(int(pid.read_text()))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left is None


def test_builds_of_one_revision_end_together(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, tmp_path: Path
) -> None:
    script = tmp_path / "kustomize"
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
    monkeypatch.setattr("reconciler.manifests.assembly._MOST_SECONDS", 0.0)
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    files = {f"hosts/box/{name}/kustomization.yaml": "namePrefix: a-\nresources: [a.yaml]\n" for name in "ab"}
    files |= {f"hosts/box/{name}/a.yaml": SERVICE for name in "ab"}
    cache = ManifestCache()
    first, second = look(commit(repository, files), cache).errors
    assert "it failed without output" in first.message
    assert "not built: those before it took 0 s" in second.message
    assert second.origin
    assert second.origin.file == "hosts/box/b/kustomization.yaml"


@pytest.mark.slow
def test_folders_of_killed_builds_are_swept(
    kubectl: str, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    left = [tmp_path / f"reconciler-kustomize-{each}-x" for each in (gone.pid, os.getpid(), "mine")]
    for folder in left:
        folder.mkdir()
        (folder / "secret.yaml").touch()
        os.utime(folder, (1, 1))
    assert services(look(commit(repository, TREE)))
    assert [folder.exists() for folder in left] == [False, True, True]


@pytest.mark.slow
def test_build_without_end_blames_its_files_where_it_computes(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, tmp_path: Path
) -> None:
    script = tmp_path / "kustomize"
    monkeypatch.setattr("reconciler.manifests.assembly.find_program", lambda: Program(str(script), ()))
    monkeypatch.setattr("reconciler.manifests.kustomize._SECONDS", 1.0)
    snapshot = commit(repository, TREE)
    # However busy the machine is: a loop gets a twentieth of it, and a start takes less than nine tenths.
    monkeypatch.setattr("reconciler.manifests.kustomize._MUCH_SECONDS", 0.05)
    script.write_text("#!/bin/bash\nwhile :; do :; done\n")
    script.chmod(0o755)
    (reason,) = desired(snapshot).unreadable
    assert "of which it computed" in reason.message
    monkeypatch.setattr("reconciler.manifests.kustomize._MUCH_SECONDS", 0.9)
    script.write_text("#!/bin/bash\nexec /bin/sleep 60\n")
    with pytest.raises(TimeoutError):
        desired(snapshot)
    with pytest.raises(Retryable):
        read_paths([repository.path / "hosts/box"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n" * 300, "hosts/box/memory.yaml/a.txt"], ids=["long", "below a file"])
def test_name_that_no_disk_takes_is_a_fault_of_the_files(name: str, kubectl: str, repository: Repository) -> None:
    """Not of this machine: it would be tried again forever, and nothing else be read."""
    text = PATCH + f"configMapGenerator: [{{name: a, files: [{name.removeprefix('hosts/box/')}]}}]\n"
    snapshot = commit(repository, {**TREE, "hosts/box/kustomization.yaml": text})
    path = name if "/" in name else f"hosts/box/{name}"
    found = look(replace(snapshot, supporting=(*snapshot.supporting, File(path, "1", b"x"))))
    assert origins(found.errors) == [("hosts/box/kustomization.yaml", 1)]
    assert "rename it" in found.errors[0].message


@pytest.mark.slow
@pytest.mark.slow
def test_lines_of_many_objects_are_found_by_their_names(kubectl: str, repository: Repository) -> None:
    objects = [f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{index}}}\n" for index in range(600)]
    files = {
        "hosts/box/kustomization.yaml": "commonAnnotations: {a: b}\nresources: [all.yaml]\n",
        "hosts/box/all.yaml": "---\n".join(objects),
    }
    found = look(commit(repository, files)).of_kind("ConfigMap")
    assert {each.name: each.origin.line for each in found} == {f"c{index}": 1 + 4 * index for index in range(600)}
    files = {"hosts/box/kustomization.yaml": "nameSuffix: -a\nresources: [all.yaml]\n"}
    found = look(commit(repository, files)).of_kind("ConfigMap")
    assert {each.origin for each in found} == {Origin("hosts/box/all.yaml", 1)}


@pytest.mark.slow
def test_unchanged_overlay_is_not_built_again(
    kubectl: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ManifestCache()
    first = look(commit(repository, TREE), cache)
    again = look(commit(repository, {"hosts/box/memory2.yaml": "a: 1\n"}), cache)
    assert again.of_kind("InferenceService")[0] is first.of_kind("InferenceService")[0]
    changed = look(commit(repository, {"base/chat.yaml": SERVICE.replace("128", "64") + "      env: []\n"}), cache)
    assert changed.of_kind("InferenceService")[0].data["spec"]["predictor"]["model"]["env"] == []


@pytest.mark.slow
def test_overlay_of_another_folder_gets_no_secrets_of_a_namespace(kubectl: str, repository: Repository) -> None:
    """An overlay decides over what it makes of a base: it counts as written where the overlay stands."""
    limited = {"folders": [{"path": "base", "namespaces": ["models"]}]}
    target = HostSettings.model_validate({**TARGET.model_dump(exclude={"secrets"}), "secrets": limited})
    snapshot = narrow(commit(repository, TREE), target.paths)
    manifests = read_manifests(snapshot, None, target.paths)
    (service,) = manifests.of_kind("InferenceService")
    assert (service.origin.file, service.place) == ("base/chat.yaml", "hosts/box/kustomization.yaml")
    assert target.secrets.folder_of(service.place) is None


@pytest.mark.slow
def test_encrypted_secret_that_nothing_changes_stays_in_its_order(kubectl: str, repository: Repository) -> None:
    """SOPS' checksum goes over the values in the order of the file."""
    secret = (
        "kind: Secret\nmetadata: {name: hub}\nstringData: {z: ENC, a: ENC}\nsops: {version: 3.11.0}\napiVersion: v1\n"
    )
    files = {
        "hosts/box/kustomization.yaml": "resources: [hub.yaml]\nimages: [{name: x, newName: z}]\n",
        "hosts/box/hub.yaml": secret,
    }
    (found,) = look(commit(repository, files)).of_kind("Secret")
    assert (list(found.data), list(found.data["stringData"])) == (
        ["kind", "metadata", "stringData", "sops", "apiVersion"],
        ["z", "a"],
    )
    assert found.line_of(("stringData", "a")) == 3


@pytest.mark.parametrize("name", ["hosts/box/memory.yaml", "hosts/box/kustomization.yaml"])
def test_patch_that_is_named_alone_is_no_broken_manifest(repository: Repository, name: str) -> None:
    """As a pre-commit hook names the files of a change."""
    commit(repository, TREE)
    found = read_paths([repository.path / name])
    assert (found.documents, found.errors, [note.code for note in found.notes]) == ((), (), ["PartOfKustomization"])
    assert services(read_paths([repository.path / "base/chat.yaml"])) == ["chat"]


def test_component_alone_is_not_served(no_program: None, repository: Repository) -> None:
    files = {
        "hosts/box/part/kustomization.yaml": "kind: Component\nresources: [chat.yaml]\n",
        "hosts/box/part/chat.yaml": SERVICE,
    }
    found = look(commit(repository, files))
    assert (services(found), found.errors) == ([], ())
    assert [note.code for note in found.notes] == ["NotInKustomization"]


def test_kustomization_of_another_tool_is_only_noted(no_program: None, repository: Repository) -> None:
    flux = (
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps}\nspec: {path: ./x}\n"
    )
    found = look(commit(repository, {"hosts/box/kustomization.yaml": flux, "hosts/box/chat.yaml": SERVICE}))
    assert (services(found), [note.code for note in found.notes]) == (["chat"], ["UnknownKind"])


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["a.yaml", "..", "../..", "https://x", "", "a=b", "\0"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(["path", "files", "0"]), inside),
    max_leaves=8,
)
KEYS = [
    "resources",
    "bases",
    "components",
    "generators",
    "patches",
    "apiVersion",
    "kind",
    "helmCharts",
    "namespace",
    "?",
]


@settings(deadline=None, max_examples=examples(200))
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING) | ANYTHING)
def test_kustomization_may_say_anything_and_nothing_breaks(said: object) -> None:
    files = {"a/kustomization.yaml": yaml.safe_dump(said).encode(), "a/a.yaml": SERVICE.encode()}
    snapshot = Snapshot("r", tuple(File(path, "", data) for path, data in files.items()))
    find_supporting({file.path: file for file in snapshot.files}, lambda names: {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reconciler.manifests.assembly.find_program", lambda: None)
        found = read_manifests(snapshot)
    assert found.unreadable or found.documents or found.notes


FOLDERS = st.sampled_from(["hosts/box", "hosts/box/a", "hosts/box/a/b", "hosts/box/c", "runtimes"])


@st.composite
def trees(draw: Callable[[st.SearchStrategy[object]], object]) -> dict[str, str]:
    """Folders with a service each, some with a kustomization that lists files and folders, there or not."""
    texts = {}
    for folder in draw(st.sets(FOLDERS, min_size=1)):  # type: ignore[attr-defined]
        name = str(folder).replace("/", "-")
        texts[f"{folder}/{name}.yaml"] = SERVICE.replace("name: chat", f"name: {name}")
        depth = str(folder).count("/") + 1
        others = st.builds(lambda other, up="../" * depth: f"{up}{other}", FOLDERS)
        entries = draw(st.none() | st.lists(others | st.just(f"{name}.yaml") | st.just("lost.yaml"), max_size=3))
        if entries is not None:
            head = draw(st.sampled_from(["", "kind: Component\n", "namePrefix: ''\n"]))
            texts[f"{folder}/kustomization.yaml"] = f"{head}resources: {entries}\n".replace("'", '"')
    return texts


@settings(deadline=None, max_examples=examples(100))
@given(trees())
def test_no_service_of_a_tree_is_dropped_in_silence(texts: dict[str, str]) -> None:
    """It is read, or a note says why not, or something is unreadable and nothing is pruned."""
    files = tuple(File(path, hashlib.sha1(text.encode()).hexdigest(), text.encode()) for path, text in texts.items())
    found = read_manifests(Snapshot("r", files), None, ("runtimes", "hosts/box"))
    if found.unreadable:
        return
    read = [each.origin.file for each in found.of_kind("InferenceService")]
    noted = [note.origin.file for note in found.notes if note.origin]
    assert len(read) == len(set(read))
    assert {path for path, text in texts.items() if text.startswith("apiVersion")} <= {*read, *noted}
