"""Documents of unsupported kinds are noted and stop nothing; unreadable ones that may be supported stop deletions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from reconciler.config.settings import HostSettings, SourceSettings
from reconciler.desired import build_desired
from reconciler.errors import ManifestError
from reconciler.manifests import Ignore, Manifests, narrow, read_manifests, read_paths
from reconciler.manifests.documents import read_file
from reconciler.model import Origin
from reconciler.source import GitSource
from tests.desired.test_desired import HOST, RUNTIME, SERVICE, TARGET, build
from tests.support.git_repository import Repository

FOREIGN = {
    "a Kustomization": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [tiny.yaml]\n",
    "one with patches": "kind: Kustomization\npatches:\n- target: {kind: InferenceService}\n",
    "Helm values": "image: {tag: v1}\n",
    "a chart": "apiVersion: v2\nname: chat\nversion: 0.1.0\n",
    "a Helm template": "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ x }}\n{{- if .y }}\n",
    "a workflow": "name: ci\non: push\n",
    "a playbook": "- hosts: all\n  tasks: []\n",
    "one word": "hello\n",
    "a kind of others": "apiVersion: example.com/v1\nkind: Hosts\nspec: 3\n",
    "a list of others": "apiVersion: example.com/v1\nkind: PriceList\nitems: {a: 1}\n",
    "encrypted values": "password: ENC[AES256_GCM,data:x]\nsops: {version: 3.9}\n",
    "a generated name": "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: a-}\n",
}

DOUBTFUL = {
    "a broken service": "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nx: [\n",
    "broken YAML": "a: [\n",
    "nothing but brackets": "}{\n",
    "a broken list": "apiVersion: v1\nkind: List\nitems: [\n",
    "two documents run together": RUNTIME + SERVICE.replace("spec:", "spec: ["),
    "a misspelt key": SERVICE.replace("kind:", "Kind:"),
    "a misspelt kind": SERVICE.replace("InferenceService", "InferenceServce"),
    "a lost head": SERVICE.partition("\n")[2].partition("\n")[2],
    "a kind that KServe lacks": SERVICE.replace("InferenceService", "Model"),
    "a lost kind": SERVICE.replace("kind: InferenceService\n", ""),
    "a service without a name": SERVICE.replace("name: chat", "nam: chat"),
    "a list with a stranger": "apiVersion: v1\nkind: List\nitems: [{metadata: {name: a}}]\n",
    "a pointer of Git LFS": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a pointer of git-annex": "/annex/objects/SHA256E-s12--4d7a.yaml\n",
    "a file of Ansible's vault": "$ANSIBLE_VAULT;1.1;AES256\n3132\n",
    "a file of transcrypt": "U2FsdGVkX19mb28=\n",
    "a file of age": "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n",
    "a broken JSON service": '{"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",',
}

HARMLESS = {
    "a broken runtime": RUNTIME + "  x: [\n",
    "a ConfigMap without a name": "apiVersion: v1\nkind: ConfigMap\ndata: {}\n",
    "a Secret with a double key": "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: x, a: y}\n",
}


def read(text: str, path: str = "a.yaml") -> Manifests:
    return read_file(path, text.encode())


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_foreign_document_is_noted_and_blocks_nothing(text: str) -> None:
    state = build({"hosts/box/z.yaml": text, "hosts/box/chat.yaml": SERVICE})
    assert (state.unreadable, state.refused) == ((), ())
    assert [note.origin.file for note in state.notes if note.origin] == ["hosts/box/z.yaml"]
    assert state.services[0].spec
    assert not read(text).errors


@pytest.mark.parametrize("text", DOUBTFUL.values(), ids=DOUBTFUL)
def test_document_that_may_be_a_service_blocks_deletions(text: str) -> None:
    state = build({"hosts/box/z.yaml": text})
    assert [reason.origin.file for reason in state.unreadable if reason.origin] == ["hosts/box/z.yaml"]


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_broken_document_of_another_kind_is_a_fault_only(text: str) -> None:
    state = build({"hosts/box/z.yaml": text, "hosts/box/chat.yaml": SERVICE})
    assert not state.unreadable
    assert [reason.origin.file for reason in state.refused if reason.origin] == ["hosts/box/z.yaml"]


def test_broken_second_host_document_blocks_deletions() -> None:
    state = build({"hosts/box/host.yaml": f"{HOST}---\nkind: Host\nx: [\n"})
    assert state.unreadable


def test_json_manifest_is_read_with_its_lines() -> None:
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "chat", "annotations": {"a": "\U0001f600 \\ud83d\\ude00"}},
        "spec": {"predictor": {}},
    }
    text = json.dumps(service, indent="\t")
    (found,) = read(text, "a.json").documents
    assert found.data == service
    assert found.line_of(("metadata", "name")) == 5
    two = read(f"{text}\n{text.replace('chat', 'other')}\n", "a.json").documents
    assert [(each.name, each.origin) for each in two] == [
        ("chat", Origin("a.json", 1)),
        ("other", Origin("a.json", 14)),
    ]


def test_json_with_a_double_key_is_refused() -> None:
    (error,) = read('{"kind": "InferenceService",\n "kind": "InferenceService"}', "a.json").errors
    assert (error.code, error.origin) == ("DuplicateKey", Origin("a.json", 2))


def test_json_with_comments_of_a_tool_is_noted() -> None:
    found = read('// settings\n{"compilerOptions": {"strict": true,},\n', "tsconfig.json")
    assert [note.code for note in found.notes] == ["NotAManifest"]
    assert not found.errors


# ---------------------------------------------------------------- git and folders give the same answers


def test_folder_and_git_choose_the_same_files(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repo")
    texts = {
        ".reconcilerignore": "*.tmpl.yaml\nvendor/\n",
        "hosts/.reconcilerignore": "a/old.yaml\n",
        "hosts/a/host.yaml": HOST,
        **{f"hosts/a/{name}": SERVICE for name in ("x.yml", "y.json", "z.YAML", "w.yaml.bak", "old.yaml", ".s.yaml")},
        **{f"hosts/a/{name}": "a: [" for name in ("b.tmpl.yaml", "vendor/c.yaml", ".github/ci.yaml", "d.txt")},
        "hosts/a/note.md": "x",
    }
    for name, text in texts.items():
        repository.write(name, text)
    for name, to in {"READ.md": "note.md", "up": "..", "gone": "nowhere", "c.yaml": "x.yml", ".hid": ".."}.items():
        (repository.path / "hosts/a" / name).symlink_to(to)
    repository.commit()
    source = GitSource(SourceSettings(url=str(repository.path)), tmp_path / "git", ("hosts/a",))
    theirs, ours = read_manifests(source.poll()), read_paths([repository.path / "hosts/a"])

    def names(found: Manifests) -> tuple[list[str], list[str]]:
        good = [each.origin.file.rpartition("/")[2] for each in found.documents]
        return good, sorted(each.origin.file.rpartition("/")[2] for each in found.errors if each.origin)

    assert names(ours) == names(theirs) == (["host.yaml", "x.yml", "y.json"], ["c.yaml", "gone", "up"])


def test_named_file_is_read_unless_it_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".reconcilerignore").write_text("\ncharts/\n")
    (tmp_path / "charts").mkdir()
    for name in (".hidden.yaml", "charts/x.yaml"):
        (tmp_path / name).write_text(SERVICE)
    assert read_paths([tmp_path / ".hidden.yaml"]).documents
    found = read_paths([tmp_path / "charts" / "x.yaml"])
    assert not found.documents
    assert [note.message for note in found.notes] == [f"ignored by `charts/` ({tmp_path}/.reconcilerignore:2)"]


def test_file_that_a_daemon_would_refuse_for_its_size_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE + "#" * (1 << 20))
    found = read_paths([tmp_path])
    assert found.documents
    assert [note.code for note in found.notes] == ["FileTooLarge"]


@pytest.mark.parametrize("pattern", ["[[:alpha:]].yaml", "][[:alpha:]]", "[z-a]", "[[.a.]]"])
def test_pattern_that_cannot_be_followed_is_an_error(pattern: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(f"`{pattern}`")):
        Ignore().add("", f"a\n{pattern}\n".encode(), ".reconcilerignore")


def test_patterns_that_are_too_large_together_are_an_error() -> None:
    data = "\n".join(f"{'[!a]?' * 39}{number}" for number in range(300)).encode()
    with pytest.raises(ManifestError, match="too large together"):
        Ignore().add("", data, ".reconcilerignore")


def test_ignore_file_without_meaning_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / ".reconcilerignore").write_text("a\n!\n")
    (error,) = [each for each in read_paths([tmp_path]).errors if each.code == "InvalidIgnoreFile"]
    assert error.origin == Origin(f"{tmp_path}/.reconcilerignore", 2)


def test_faults_in_a_folder_of_another_host_block_nothing_here(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repo")
    for host in "ab":
        repository.write(f"hosts/{host}/host.yaml", HOST)
    repository.write("hosts/b/broken.yaml", "a: [\n")
    repository.write("hosts/b/large.yaml", "kind: InferenceService\n" + "#" * 2000)
    repository.write("hosts/b/nul.yaml", "a: \0\n")
    (repository.path / "hosts/b/up").symlink_to("..")
    repository.write("hosts/b/sub/.reconcilerignore", "!\n")
    repository.write("hosts/b/sub/x.yaml", SERVICE)
    repository.commit()
    source = GitSource(
        SourceSettings(url=str(repository.path), max_file_bytes=1000), tmp_path / "git", ("hosts/a", "hosts/b")
    )
    snapshot = source.poll()

    def blocking(name: str) -> set[str]:
        target = HostSettings.model_validate({"name": name, "paths": [f"hosts/{name}"]})
        own = narrow(snapshot, target.paths)
        desired = build_desired(read_manifests(own), target, own)
        assert not desired.services
        return {reason.origin.file for reason in desired.unreadable if reason.origin}

    assert blocking("a") == set()
    names = ("broken.yaml", "large.yaml", "nul.yaml", "up", "up/", "sub/", "sub/.reconcilerignore")
    assert blocking("b") == {f"hosts/b/{name}" for name in names}


@pytest.mark.parametrize("head", ["kind: {long}\napiVersion: example.com/v1", "kind: Pod\napiVersion: {long}"])
def test_message_about_a_document_of_others_is_of_a_bounded_length(head: str) -> None:
    text = head.replace("{long}", "x" * 100_000) + "\nmetadata: {name: {}}\n".replace("{}", "y" * 100_000)
    found = read_file("hosts/a/long.yaml", text.encode())
    said = [reason.message for reason in (*found.notes, *found.errors)]
    assert said
    assert max(map(len, said)) < 500


@pytest.mark.parametrize("as_json", [True, False], ids=["as JSON", "as YAML"])
def test_service_whose_file_becomes_json_is_the_same_service(as_json: bool, tmp_path: Path) -> None:
    """kubectl takes YAML in a file of either name."""
    repository = Repository(tmp_path / "repo")
    repository.write("hosts/box/host.yaml", HOST)
    repository.write("runtimes/vllm.yaml", RUNTIME)
    repository.write("hosts/box/chat.yaml", SERVICE)
    source = GitSource(SourceSettings(url=str(repository.path)), tmp_path / "git", TARGET.paths)
    repository.commit()
    before = source.poll()
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(SERVICE)]}, indent=2)
    repository.write("hosts/box/chat.json", text if as_json else SERVICE)
    (repository.path / "hosts/box/chat.yaml").unlink()
    repository.commit()
    after = source.poll()
    (old,), (new,) = (build_desired(read_manifests(each), TARGET, each).services for each in (before, after))
    assert (old.id, old.digest, old.spec) == (new.id, new.digest, new.spec)
    assert new.origin.file == "hosts/box/chat.json"
    assert len(read_paths([repository.path / "hosts"]).of_kind("InferenceService")) == 1


NEAR = [
    "chat.yml.bak",
    "chat.yaml.j2",
    "chat.jsonnet",
    "chat.YAML",
    "chat.yaml~",
    "chat.json.tmpl",
    "chat.yaml.example",
]


@pytest.mark.parametrize("name", NEAR)
def test_file_named_almost_like_a_manifest_is_noted(name: str, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repo")
    repository.write("hosts/box/host.yaml", HOST)
    repository.write(f"hosts/box/{name}", SERVICE)
    repository.write("hosts/box/values.yaml.example", "image: x\n")
    repository.write("hosts/box/README.md", SERVICE)
    repository.commit()
    snapshot = GitSource(SourceSettings(url=str(repository.path)), tmp_path / "git", TARGET.paths).poll()
    theirs, ours = read_manifests(snapshot), read_paths([repository.path / "hosts"])
    for found in (theirs, ours):
        (note,) = found.notes
        assert note.code == "MisnamedManifest"
        assert note.origin
        assert note.origin.file.endswith(f"hosts/box/{name}")
        assert not found.errors
