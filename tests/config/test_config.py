"""The config: what it refuses, and that every refusal names the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.config.settings import Settings
from reconciler.errors import SettingsError


def load(folder: Path, target: dict[str, Any] | None = None, **settings: Any) -> Settings:
    """A config with one target, changed as a test asks."""
    file = folder / "config.yaml"
    whole = {"source": {"url": "/models.git"}, "targets": [{"name": "box", "paths": ["hosts/box"], **(target or {})}]}
    file.write_text(yaml.safe_dump({**whole, **settings}))
    return Settings.load(file)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("hosts/box", "hosts/box"), ("./hosts//box/", "hosts/box"), (".", ""), ("", ""), ("a b", "a b")],
)
def test_path_means_the_same_however_it_is_written(tmp_path: Path, written: str, meant: str):
    target = load(tmp_path, {"paths": ["runtimes/", written]}).targets[0]
    assert target.paths == ("runtimes", meant)
    assert target.own_path == meant


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../etc", "leaves the repository"),
        ("hosts/../../etc", "leaves the repository"),
        ("hosts/a\n", "leaves the repository"),
        ("/hosts/box", "is absolute"),
    ],
)
def test_path_outside_the_repository_is_refused(tmp_path: Path, path: str, why: str):
    with pytest.raises(SettingsError, match=rf"config\.yaml:\d+: targets\[0\]\.paths\[1\]: .*{why}"):
        load(tmp_path, {"paths": ["runtimes", path]})


def test_target_without_paths_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.paths: "):
        load(tmp_path, {"paths": []})


@pytest.mark.parametrize("engine", [{}, {"python": "/python", "podman": True}, {"podman": False}])
def test_image_is_run_by_an_interpreter_or_by_podman(tmp_path: Path, engine: dict[str, Any]):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.engines\[0\]: set either python, .*"):
        load(tmp_path, {"kind": "systemd", "engines": [{"image": "*", **engine}]})


def test_containers_need_systemd_to_keep_them(tmp_path: Path):
    engines = [{"image": "a", "python": "/python"}, {"image": "*", "podman": True}]
    assert load(tmp_path, {"kind": "systemd", "engines": engines}).targets[0].engines[1].podman
    with pytest.raises(
        SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.engines: podman: true needs kind: systemd"
    ):
        load(tmp_path, {"engines": engines})


@pytest.mark.parametrize("name", ["team-a", "0", "a" * 63])
def test_default_namespace_is_a_dns_label(tmp_path: Path, name: str):
    assert load(tmp_path, {"default_namespace": name}).targets[0].default_namespace == name


@pytest.mark.parametrize("name", ["", "Team", "a_b", "../x", "a.b", "-a", "a-", "a" * 64, "a\n"])
def test_default_namespace_that_kubernetes_would_refuse_is_refused(tmp_path: Path, name: str):
    with pytest.raises(SettingsError, match=r"config\.yaml:\d+: targets\[0\]\.default_namespace: "):
        load(tmp_path, {"default_namespace": name})


def test_misspelt_setting_is_answered_with_the_nearest(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"targets\[0\]\.enginse: no such setting; did you mean engines\?"):
        load(tmp_path, {"enginse": []})


def test_setting_in_the_wrong_place_is_not_answered_with_itself(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"targets\[0\]\.env: no such setting here, it belongs elsewhere"):
        load(tmp_path, {"env": {}})


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("source: {url: /g}\nsource: {url: /h}\ntargets: []", 2, 'key "source" is written twice'),
        ("source: {url: /g}\ntargets:\n- name: a\n  paths: [a]\n  name: b", 5, 'key "name" is written twice'),
        ("source: {url: /g}\n---\nsource: {url: /h}", 3, "second document"),
        ("source: &a [*a]", 1, "deeper than 100"),
        ("source: {url: /g}\nlog: !!python/name:os.system", 2, "tag"),
        ("source: [", 1, "is not YAML"),
        ("", 1, "expected a mapping"),
        ("- a", 1, "expected a mapping"),
        ("a: \xff", 1, "UTF-8"),
        ("#" * (1 << 20) + "\n", 0, "larger than 1 MiB"),
    ],
)
def test_config_is_read_by_the_strict_reader(tmp_path: Path, text: str, line: int, said: str):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        Settings.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ports", "70000-70010", "from 1 to 65535"),
        ("ports", "30000-20000", "the lower first"),
        ("ports", "0-10", "from 1 to 65535"),
        ("ports", "20000", "write 20000-20999"),
        ("routing.listen", "127.0.0.1:0", "from 1 to 65535"),
        ("routing.listen", "gpu-1:8080", "is not an IP address"),
        ("routing.listen", "127.0.0.1:20005", r"in the range for replicas of box \(ports: 20000-20999\)"),
        ("routing.domain", "example.com:8080", "without a port"),
        ("routing.domain", "a b.example.com", "without a port, blanks"),
        ("routing.domain", "*.example.com", "wildcard"),
        ("routing.domain", "", "is not a domain"),
        ("routing.max_body_bytes", 1 << 32, "less than"),
        ("routing.max_body_bytes", True, "must be a number"),
        ("name", "git", "a folder of our own"),
        ("name", "a" * 64, "at most 63"),
        ("name", "gpu.1", "lowercase letters, digits and '-'"),
        ("user", "a b", "the name of a user"),
        ("volumes.models", "models", "is relative.*write it from the root on: /srv/models"),
        ("volumes.a/b", "/srv/models", "pvc://NAME"),
        ("storage.python", "~/venv/bin/python", "is relative"),
        ("storage.folder", "", "is relative"),
        ("storage.folder", "/var/lib", "holds what else we keep in state_dir"),
        ("storage.folder", "/var/lib/reconciler/git", "holds what else we keep in state_dir"),
        ("storage.env", {"A=B": "c"}, "name of a variable"),
        ("storage.env", {"A": "b\0c"}, "zero character"),
        ("secrets.directory", "secrets", "is relative"),
        ("secrets.age_key_file", "./age.key", "is relative"),
        ("engines", [{"image": "vllm/*", "python": "venv/bin/python"}], "is relative"),
        ("engines", [{"image": "", "python": "/python"}], "is not an image"),
        ("engines", [{"image": "a", "python": "/python", "env": {"1A": "b"}}], "name of a variable"),
        ("gpus", ["0"], "nvidia-smi -L"),
        ("gpus", ["GPU-1", "GPU-1"], "listed twice"),
        ("allocatable.memory", "48 GB", "is not a quantity"),
        ("allocatable.cpu", "-1", "is not a quantity"),
        ("labels", {"a b": "c"}, "key of a label"),
        ("rollout.ready_timeout", 0, "greater than 0"),
        ("rollout.drain_timeout", "1e9s", "is not a duration"),
        ("rollout.drain_timeout", "1000000h", "less than or equal"),
    ],
)
def test_nonsense_in_a_target_is_refused_with_its_line(tmp_path: Path, key: str, value: Any, says: str):
    path = key.split(".")
    place = path if path[0] in ("labels", "volumes", "engines") else path[:2]
    nested = value if len(path) == 1 else {key.partition(".")[2]: value}
    with pytest.raises(SettingsError, match=rf"^\S+config\.yaml:[2-9]\d*: targets\[0\]\.{place[0]}.*: .*{says}"):
        load(tmp_path, {path[0]: nested})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("source.url", "models.git", "neither a URL nor an absolute path"),
        ("source.url", "", "neither a URL nor an absolute path"),
        ("source.url", "file://models.git", "three slashes"),
        ("source.branch", "-x", "a name that git allows"),
        ("source.tag", "a b", "a name that git allows"),
        ("source.commit", "abc", "40 hexadecimal digits"),
        ("source.timeout", 0, "greater than 0"),
        ("source.username", "a:b", "without colons"),
        ("source.token_file", "token", "is relative"),
        ("source.ssh_key_file", "key", "is relative"),
        ("source.known_hosts_file", "hosts", "is relative"),
        ("source.ca_file", "ca.pem", "is relative"),
        ("source.max_files", 0, "greater than 0"),
        ("state_dir", "state", "is relative"),
        ("socket", "control.sock", "is relative"),
        ("socket", "/var/lib/reconciler/state.db", "other files of the daemon"),
        ("web.listen", "9464", "127.0.0.1"),
        ("web.listen", "0.0.0.0:8080", "web listens on 0.0.0.0:8080, which box"),
        ("web.listen", ":9464", "names no host"),
        ("web.listen", "0.0.0.0:20001", "in the range for replicas"),
    ],
)
def test_nonsense_in_other_settings_is_refused_with_its_line(tmp_path: Path, key: str, value: Any, says: str):
    section, _, name = key.partition(".")
    extra = {"url": "/m"} if section == "source" else {}
    with pytest.raises(SettingsError, match=rf"^\S+config\.yaml:\d+: {key}: .*{says}"):
        load(tmp_path, **{section: {**extra, name: value} if name else value})


def test_things_that_are_told_apart_by_their_name_need_one_each(tmp_path: Path):
    hook = {"name": "a", "kind": "github", "secret_file": "/s"}
    with pytest.raises(SettingsError, match=r"^\S+config\.yaml:\d+: web\.webhooks\[1\]\.name: a is another one's"):
        load(tmp_path, web={"webhooks": [hook, hook | {"kind": "gitlab"}]})
    with pytest.raises(SettingsError, match=r"notifications\[2\]\.name: b is another one's"):
        load(tmp_path, notifications=[{"name": name, "url_file": "/u"} for name in ("b", "a", "b")])
    with pytest.raises(SettingsError, match=r"web\.peers\[1\]\.name: b is another one's"):
        load(tmp_path, web={"peers": [{"name": "b", "url": f"https://{host}"} for host in ("b", "c")]})


def test_login_that_others_could_read_is_refused(tmp_path: Path):
    auth = {"tokens": [{"name": "ada", "sha256": "0" * 64}]}
    tls = {"certificate_file": "/c", "key_file": "/k"}
    for fine in ({"listen": "127.0.0.1:1"}, {"url": "https://models.example.com"}, {"tls": tls}):
        assert load(tmp_path, web={"listen": "0.0.0.0:1", "auth": auth} | fine)
    with pytest.raises(SettingsError, match=r"web\.auth: whoever is between a browser and 0\.0\.0\.0:1 could read"):
        load(tmp_path, web={"listen": "0.0.0.0:1", "auth": auth, "url": "http://models.example.com"})


def test_tokens_that_are_not_one_persons_are_refused(tmp_path: Path):
    tokens = [{"name": name, "sha256": digit * 64} for name, digit in (("a", "0"), ("b", "0"), ("a", "1"))]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, web={"auth": {"tokens": tokens}})
    for text in ("tokens[2].name: a is another", "tokens[1].sha256: another one"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("second", "key", "says"),
    [
        ({"name": "box"}, "name", "two targets have the same name"),
        ({"paths": ["hosts/box"]}, r"paths\[0\]", "the own folder of (box|second), whose services"),
        ({"paths": ["hosts/box", "b"]}, r"paths\[0\]", "second reads hosts/box and with it hosts/box, the own"),
        ({"paths": ["hosts"]}, r"paths\[0\]", "second reads hosts and with it hosts/box, the own folder of box"),
        ({"paths": ["hosts/box/part"]}, r"paths\[0\]", "box reads hosts/box and with it hosts/box/part"),
        ({"paths": [""]}, r"paths\[0\]", "second reads the whole repository"),
        ({"ports": "20999-21005"}, "ports", "share ports"),
        ({"ports": "8079-8081"}, "routing.listen", "in the range for replicas of second"),
        ({"routing": {"listen": "0.0.0.0:8080"}}, "routing.listen", "which box .* takes already"),
        ({"routing": {"listen": "[::]:8080"}}, "routing.listen", "which box .* takes already"),
        ({"routing": {"listen": "127.0.0.1:9464"}}, "routing.listen|web.listen", "takes already"),
        ({"storage": {"folder": "/srv/models/second"}}, "storage.folder", "each its own"),
    ],
)
def test_two_targets_that_exclude_each_other_are_refused(tmp_path: Path, second: dict[str, Any], key: str, says: str):
    first = {"name": "box", "paths": ["hosts/box"], "storage": {"folder": "/srv/models"}}
    other = {
        "name": "second",
        "paths": ["hosts/second"],
        "ports": "21000-21005",
        "routing": {"listen": "127.0.0.1:8081"},
    }
    assert len(load(tmp_path, targets=[first, other]).targets) == 2
    with pytest.raises(SettingsError, match=rf"config\.yaml:\d+: (targets\[\d\]\.)?({key}): .*{says}"):
        load(tmp_path, targets=[first, {**other, **second}])


def test_mistake_is_told_once_with_its_line(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "source: {url: /srv/git}\ntargets:\n  - name: gpu-1\n    kind: sytemd\n    paths: [a]\n    engines: []\n"
    )
    with pytest.raises(SettingsError) as caught:
        Settings.load(path)
    assert str(caught.value) == f"{path}:4: targets[0].kind: \"sytemd\" is none of 'process' or 'systemd'"


@pytest.mark.parametrize("name", ["token_file", "ssh_key_file"])
def test_token_in_the_place_of_its_file_is_not_repeated(tmp_path: Path, name: str):
    with pytest.raises(SettingsError, match=f"source.{name}: it is relative") as refused:
        load(tmp_path, source={"url": "/m", name: "glpat-abcdefghijkl"})
    assert "abcdefghijkl" not in str(refused.value)
