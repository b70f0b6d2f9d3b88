"""Where a host finds Secrets: which place counts, what is refused and how to put it right, when it is read again."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.config.settings import HostSettings, Secrets
from reconciler.manifests import Manifest, Manifests, read_manifests
from reconciler.model import File, Origin, Snapshot
from reconciler.secrets import SecretSources, SecretStore, sops
from tests.support.examples import examples
from tests.support.secret_files import age_key, encrypt

VALUE = "hf_tested"


def secret(name: str = "hub", value: str = VALUE, **more: str) -> str:
    meta = "".join(f", {key}: {text}" for key, text in more.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}{meta}}}\nstringData:\n  token: {value}\n"


def in_git(**files: str) -> Manifests:
    made = (
        File(f"hosts/box/{name}.yaml", hashlib.sha1(t.encode()).hexdigest(), t.encode()) for name, t in files.items()
    )
    return read_manifests(Snapshot("r1", tuple(made)))


def target(**settings: object) -> HostSettings:
    secrets = Secrets.model_validate(settings)
    return HostSettings(name="box", paths=("hosts/box",), default_namespace="team", secrets=secrets)


def load(manifests: Manifests | None = None, environ: dict[str, str] | None = None, **settings: object) -> SecretStore:
    store = SecretSources(target(**settings), environ or {}).load(manifests or Manifests())
    assert VALUE not in repr(store)
    assert not any(VALUE in str(reason) for reason in (*store.faults, *store.notes))
    return store


def write(folder: Path, name: str, text: str, mode: int = 0o600) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Sealed:
    """A Secret that sops encrypted, and the file that opens it."""

    text: str
    key: Path


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    key = tmp_path_factory.mktemp("age") / "age.key"
    return Sealed(encrypt(secret(), age_key(key)), key)


# ---------------------------------------------------------------- a folder outside git


def test_folder_gives_secrets_with_text_over_encoded_data(tmp_path: Path):
    data = base64.b64encode(b"\x00\xff").decode()
    write(tmp_path / "s", "a.yaml", secret() + f"data:\n  token: b2xk\n  raw: {data}\n")
    store = load(directory=tmp_path / "s")
    assert store.data("team", "hub") == {"token": b"hf_tested", "raw": b"\x00\xff"}
    assert store.data("other", "hub") is None
    assert not store.faults


def test_json_counts_as_well_and_a_namespace_of_its_own_is_kept(tmp_path: Path):
    text = (
        '{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": "x"}, "data": {"a": "Yg=="}}'
    )
    write(tmp_path / "s", "a.json", text)
    write(tmp_path / "s", "README", "not read")
    write(tmp_path / "s", ".hidden.yaml", "{not read")
    store = load(directory=tmp_path / "s")
    assert store.data("x", "hub") == {"a": b"b"}
    assert not store.faults


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_file_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path: Path, mode: int):
    path = write(tmp_path / "s", "a.yaml", secret(), mode)
    store = load(directory=tmp_path / "s")
    assert store.data("team", "hub") is None
    assert str(store.faults[0]) == f"{path}:1: is open to other users (mode {mode:o}); run: chmod 600 {path}"


def test_writable_secret_folder_is_refused_with_the_chmod_to_run(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", secret())
    (tmp_path / "s").chmod(0o770)
    store = load(directory=tmp_path / "s")
    assert store.data("team", "hub") is None
    assert f"run: chmod 700 {tmp_path / 's'}" in str(store.faults[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_user_is_refused(tmp_path: Path):
    path = write(tmp_path / "s", "a.yaml", secret())
    os.chown(path, 12345, -1)
    assert f"belongs to user 12345; run: chown 0 {path}" in str(load(directory=tmp_path / "s").faults[0])


def test_folder_that_is_not_there_is_a_fault_and_not_an_empty_one(tmp_path: Path):
    store = load(directory=tmp_path / "s")
    assert [each.code for each in store.unavailable] == ["SecretsUnreadable"]
    assert "No such file" in str(store.unavailable[0])


def test_pipe_in_the_folder_keeps_nobody_waiting(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", secret())
    os.mkfifo(tmp_path / "s" / "b.yaml", 0o600)
    store = load(directory=tmp_path / "s")
    assert store.data("team", "hub")
    assert "not a regular file" in str(store.faults[0])


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("data:\n  token: hf_tested!\n", 5, "data.token is not base64; encode it, or move it to stringData as it is"),
        ("data:\n  token: [hf_tested]\n", 5, "data.token is not base64"),
        ("stringData:\n  pin: 1234\n", 5, "stringData.pin must be text; put it in quotes"),
        ("data: hf_tested\n", 4, "data must be a mapping"),
        ("data:\n  ../../hf: YQ==\n", 5, "data: a key holds letters, digits, -, _ and . only, and must not be a path"),
        ("data:\n  ..: YQ==\n", 5, "data: a key holds"),
    ],
)
def test_secret_that_no_cluster_takes_is_refused_without_showing_it(tmp_path: Path, text: str, line: int, said: str):
    path = write(tmp_path / "s", "a.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: hub}\n" + text)
    store = load(directory=tmp_path / "s")
    assert str(store.faults[0]).startswith(f"{path}:{line}: Secret hub: {said}")
    assert store.refused.keys() == {("team", "hub")}


def test_broken_file_spoils_only_itself(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", secret())
    write(tmp_path / "s", "b.yaml", "kind: [hf_tested\n")
    store = load(directory=tmp_path / "s")
    assert store.data("team", "hub")
    assert [each.code for each in store.faults] == ["InvalidYaml"]


def test_number_in_a_secret_is_not_shown_by_the_warning_about_it():
    manifests = in_git(a=secret(value="0123"))
    assert [each.message for each in manifests.warnings] == ["an unquoted value is not read as text; put it in quotes"]


def test_what_is_no_secret_is_said_and_left(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    assert [each.code for each in load(directory=tmp_path / "s").notes] == ["NotASecret"]


# ---------------------------------------------------------------- systemd credentials


def test_manifests_among_the_credentials_of_the_daemon_count(tmp_path: Path):
    # systemd may let the user of a service read them by an access list, which shows as rights of the group.
    write(tmp_path / "c", "hub.yaml", secret(), 0o440)
    write(tmp_path / "c", "git-token", "hf_tested")
    store = load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "c")})
    assert store.data("team", "hub") == {"token": b"hf_tested"}
    assert not store.faults


def test_age_identity_may_be_a_credential(sealed: Sealed):
    store = load(in_git(a=sealed.text), {"CREDENTIALS_DIRECTORY": str(sealed.key.parent)})
    assert store.data("team", "hub") == {"token": b"hf_tested"}


# ---------------------------------------------------------------- git


def test_plain_data_in_git_is_refused_with_three_ways_out():
    store = load(in_git(a=secret()))
    (fault,) = store.faults
    assert store.data("team", "hub") is None
    assert str(fault.origin) == "hosts/box/a.yaml:4"
    for way in ("sops encrypt -i --age RECIPIENT", "targets[].secrets.directory", "LoadCredential=hub.yaml:"):
        assert way in fault.message


def test_config_may_allow_plain_data_in_git():
    store = load(in_git(a=secret()), allow_plaintext=True)
    assert store.data("team", "hub") == {"token": b"hf_tested"}
    assert not store.faults


def test_secret_without_data_discloses_nothing():
    store = load(in_git(a="apiVersion: v1\nkind: Secret\nmetadata: {name: hub}\n"))
    assert store.data("team", "hub") == {}
    assert not store.faults


def test_encrypted_secret_in_git_is_opened(sealed: Sealed):
    store = load(in_git(a=sealed.text), age_key_file=sealed.key)
    assert store.data("team", "hub") == {"token": b"hf_tested"}
    assert not store.faults


def test_opened_secret_is_not_opened_again_when_others_change(sealed: Sealed, monkeypatch: pytest.MonkeyPatch):
    sources = SecretSources(target(age_key_file=sealed.key, allow_plaintext=True), {})
    sources.load(in_git(a=sealed.text))
    monkeypatch.setattr(sops, "find_program", lambda: None)
    store = sources.load(in_git(a=sealed.text, b=secret("other")))
    assert store.data("team", "hub") == {"token": b"hf_tested"}
    assert store.data("team", "other")


def test_secret_that_no_program_opened_is_tried_again(sealed: Sealed, monkeypatch: pytest.MonkeyPatch):
    sources, manifests = SecretSources(target(age_key_file=sealed.key), {}), in_git(a=sealed.text)
    with monkeypatch.context() as patch:
        patch.setattr(sops, "find_program", lambda: None)
        first = sources.load(manifests)
        assert first.is_provisional
        assert sources.load(manifests) is first
        patch.setattr(sources, "_look_again_at", 0.0)
        assert sources.load(manifests) is first, "nothing changed"
    assert sources.load(manifests) is first, "not yet"
    monkeypatch.setattr(sources, "_look_again_at", 0.0)
    assert sources.load(manifests).data("team", "hub") == {"token": b"hf_tested"}


def test_own_key_of_a_folder_alone_opens_its_secrets(sealed: Sealed, tmp_path: Path):
    """A copy of another team's file: what opens that for the whole host does not open it here."""
    own = tmp_path / "own.key"
    age_key(own)
    folders = [{"path": "hosts/box", "namespaces": ["team"], "age_key_file": own}]
    (fault,) = load(in_git(a=sealed.text), age_key_file=sealed.key, folders=folders).faults
    assert fault.code == "WrongDecryptionKey"


def test_encrypted_secret_without_an_identity_names_the_setting(sealed: Sealed):
    (fault,) = load(in_git(a=sealed.text)).faults
    assert "Secret hub: is encrypted, and targets[].secrets.age_key_file of box names no age identity" in str(fault)


def test_identity_open_to_others_is_refused(sealed: Sealed, tmp_path: Path):
    write(tmp_path, "age.key", sealed.key.read_text(), 0o644)
    (fault,) = load(in_git(a=sealed.text), age_key_file=tmp_path / "age.key").faults
    assert f"run: chmod 600 {tmp_path / 'age.key'}" in str(fault)


def test_file_of_several_encrypted_documents_is_refused_by_name(tmp_path: Path):
    recipient = age_key(tmp_path / "age.key")
    both = encrypt(secret("a") + "---\n" + secret("b"), recipient)
    store = load(in_git(both=both), age_key_file=tmp_path / "age.key")
    assert store.refused.keys() == {("team", "a"), ("team", "b")}
    assert "may hold one document only" in str(store.faults[0])


def test_document_encrypted_as_a_whole_is_refused_with_the_way_to_do_it(tmp_path: Path):
    text = encrypt(secret(), age_key(tmp_path / "age.key"), rule="unencrypted_suffix: _unencrypted")
    (error,) = in_git(a=text).errors
    assert "SOPS encrypted the whole document; encrypt it with --encrypted-regex '^(data|stringData)$'" in str(error)


# ---------------------------------------------------------------- several places, and time


def test_hosts_own_folder_counts_before_git(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", secret(value="own"))
    store = load(in_git(a=secret()), directory=tmp_path / "s", allow_plaintext=True)
    assert store.data("team", "hub") == {"token": b"own"}
    assert [each.code for each in store.notes] == ["SecretShadowed"]
    assert "hosts/box/a.yaml" in str(store.notes[0])


@pytest.mark.parametrize("has_host", [False, True])
def test_duplicate_secrets_in_git_are_refused_unless_the_host_has_it(tmp_path: Path, has_host: bool):
    """Which one a cluster would have is up to the order of `kubectl apply`."""
    if has_host:
        write(tmp_path / "s", "a.yaml", secret(value="own"))
    both = in_git(a=secret(value="a"), b=secret(value="b"), c=secret("other"))
    store = load(both, directory=tmp_path / "s" if has_host else None, allow_plaintext=True)
    assert store.data("team", "hub") == ({"token": b"own"} if has_host else None)
    assert store.data("team", "other") is not None
    if not has_host:
        (reason,) = store.faults
        assert str(reason) == "hosts/box/a.yaml:1: Secret hub is also written at hosts/box/b.yaml:1; keep one"
    assert [each.code for each in store.notes] == ["SecretShadowed"] * 2 * has_host


def test_refused_secret_of_the_host_is_not_replaced_by_that_of_git(tmp_path: Path):
    write(tmp_path / "s", "a.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: hub}\ndata: {token: '?'}\n")
    assert load(in_git(a=secret()), directory=tmp_path / "s", allow_plaintext=True).data("team", "hub") is None


def test_nothing_is_read_again_while_nothing_changes(tmp_path: Path):
    path = write(tmp_path / "s", "a.yaml", secret())
    sources = SecretSources(target(directory=tmp_path / "s"), {})
    manifests = in_git(b=secret("other"))
    first = sources.load(manifests)
    assert sources.load(manifests) is first is sources.store
    path.write_text(secret(value="renewed"))
    assert sources.load(manifests).data("team", "hub") == {"token": b"renewed"}
    path.unlink()
    assert sources.load(manifests).data("team", "hub") is None
    write(tmp_path / "s", "b.yaml", secret())
    assert sources.load(manifests).data("team", "hub")
    (tmp_path / "s" / "b.yaml").chmod(0o644)
    assert sources.load(manifests).data("team", "hub") is None


def test_another_identity_is_noticed(sealed: Sealed, tmp_path: Path):
    key = write(tmp_path, "age.key", sealed.key.read_text())
    manifests = in_git(a=sealed.text)
    sources = SecretSources(target(age_key_file=key), {})
    assert sources.load(manifests).data("team", "hub")
    age_key(key)
    assert sources.load(manifests).data("team", "hub") is None


# ---------------------------------------------------------------- anything at all


def _mappings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(
        st.text(max_size=6) | st.sampled_from(["data", "enc", "age", "annotations"]), values, max_size=4
    )


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("ENC[AES256_GCM,data:")
)
_TREES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | _mappings(inner), max_leaves=8)


@given(
    field=st.sampled_from([(), ("data",), ("stringData",), ("metadata", "annotations"), ("sops",), ("sops", "age")])
    | st.sampled_from(["mac", "lastmodified", "version", "age", "encrypted_regex", "pgp"]).map(
        lambda name: ("sops", name)
    ),
    value=_TREES,
)
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_document_makes_reading_raise(field: tuple[str, ...], value: Any, sealed: Sealed):
    document = yaml.safe_load(sealed.text)
    place = document
    for name in field[:-1]:
        place = place[name]
    if field:
        place[field[-1]] = value
    odd = Manifest("v1", "Secret", None, "hub", document, Origin("a.yaml", 1), 1)
    plain = replace(odd, data={**document, "sops": value} if field else {"metadata": {}, "data": value})
    load(Manifests((odd, plain)), age_key_file=sealed.key, allow_plaintext=True)


# ---------------------------------------------------------------- of a revision that nobody accepted


def test_sealed_secret_of_git_is_known_by_its_keys_and_not_opened(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sops, "_ask", lambda *_: pytest.fail("sops was started"))
    sources = SecretSources(target(age_key_file=str(sealed.key)), {}, is_sealed=True)
    store = sources.load(in_git(a=sealed.text))
    assert store.data("team", "hub") == {"token": b""}
    assert not store.faults


def test_sealed_secret_of_a_folder_keeps_only_where_a_model_is(tmp_path: Path) -> None:
    entry = '{"type": "s3", "bucket": "models", "access_key_id": "a", "secret_access_key": "b"}'
    text = secret() + f"  s3: '{entry}'\n  AWS_S3_BUCKET: models\n  AWS_SECRET_ACCESS_KEY: b\n"
    write(tmp_path / "s", "a.yaml", text)
    store = SecretSources(target(directory=tmp_path / "s"), {}, is_sealed=True).load(Manifests())
    assert store.data("team", "hub") == {
        "token": b"",
        "s3": b'{"type": "s3", "bucket": "models"}',
        "AWS_S3_BUCKET": b"models",
        "AWS_SECRET_ACCESS_KEY": b"",
    }


def test_sealed_reading_refuses_plain_secrets_of_git_as_any_other() -> None:
    store = SecretSources(target(), {}, is_sealed=True).load(in_git(a=secret()))
    assert store.data("team", "hub") is None
    assert "is in git unencrypted" in str(store.faults[0])
