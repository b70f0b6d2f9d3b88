"""Files that the real sops wrote, opened without it; and what must not be opened."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from reconciler.manifests.documents import read_file
from reconciler.secrets.decode import Unfit
from reconciler.secrets.sops import Identities, decrypt, read_identities
from tests.support.secret_files import age_key, encrypt

SECRET = """\
# For the hub
apiVersion: v1
kind: Secret
metadata:
  name: hub
  annotations: {about: "tokens: two"}
immutable: true
stringData:
  # the old one
  token: hf_tested
  empty: ""
  nothing: null
  text: |
    two
    lines, ünïcode
data:
  key: aGVsbG8=
"""
# Not what a Secret may hold, but what the checksum has to agree on.
ODD = """\
apiVersion: v1
kind: Secret
metadata: {name: odd, annotations: {size: 12, share: 0.50, tiny: 1.0e-7, big: 1.5e+21, "on": true}}
data:
  number: -7
  share: 0.10
  tiny: 1.0e-9
  big: 12345678901234567890.5
  whole: 3.0
  "on": false
  list: [one, 2, {three: 3.25}, [true]]
"""
RULES = [
    "encrypted_regex: ^(data|stringData)$",
    "unencrypted_regex: ^(apiVersion|kind|metadata|immutable)$",
    "encrypted_regex: ^(data|stringData)$, mac_only_encrypted: true",
]


@dataclass(frozen=True)
class Key:
    identities: Identities
    recipient: str


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    path = tmp_path_factory.mktemp("age") / "age.key"
    recipient = age_key(path)
    return Key(read_identities(path.read_bytes(), "age.key"), recipient)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    path = tmp_path_factory.mktemp("age") / "other.key"
    recipient = age_key(path)
    return Key(read_identities(path.read_bytes(), "other.key"), recipient)


@pytest.fixture(scope="module")
def encrypted(key: Key) -> str:
    return encrypt(SECRET, key.recipient)


def document(text: str) -> Any:
    """The document as the manifests' reader gives it."""
    manifests = read_file("hub.yaml", text.encode())
    assert not manifests.unreadable
    return manifests.documents[0].data


def refusal(text: str, identities: Identities) -> str:
    with pytest.raises(Unfit) as caught:
        decrypt(document(text), identities)
    assert "hf_tested" not in caught.value.message
    return f"{caught.value.code}: {caught.value.message}"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [SECRET, ODD], ids=["secret", "odd"])
def test_what_sops_encrypted_comes_back_as_it_was(text: str, rule: str, key: Key):
    encrypted = encrypt(text, key.recipient, rule=rule)
    assert "hf_tested" not in encrypted
    assert decrypt(document(encrypted), key.identities) == yaml.safe_load(text)


def test_a_suffix_says_what_is_encrypted(key: Key):
    text = SECRET.replace("data:\n  key: aGVsbG8=\n", "")
    encrypted = encrypt(text, key.recipient, rule="encrypted_suffix: Data")
    assert decrypt(document(encrypted), key.identities) == yaml.safe_load(text)


def test_any_of_several_recipients_opens_a_file(key: Key, other: Key):
    encrypted = encrypt(SECRET, other.recipient, key.recipient)
    assert decrypt(document(encrypted), key.identities)["stringData"]["token"] == "hf_tested"


def test_a_key_that_fits_not_is_told_whom_to_add(encrypted: str, key: Key, other: Key):
    said = refusal(encrypted, other.identities)
    assert said.startswith("WrongAgeKey")
    assert key.recipient in said
    assert f"--add-age {other.recipient}" in said


def test_without_an_identity_it_says_what_is_missing(encrypted: str):
    said = refusal(encrypted, Identities(missing="nobody gave one"))
    assert said == "NoAgeKey: is encrypted, and nobody gave one"


def changed(text: str, **values: Any) -> str:
    """The same file with other metadata; None takes a key out."""
    tree = yaml.safe_load(text)
    for name, value in values.items():
        tree["sops"][name] = value
        if value is None:
            del tree["sops"][name]
    return yaml.safe_dump(tree, sort_keys=False)


def test_a_value_changed_in_the_clear_breaks_the_checksum(encrypted: str, key: Key):
    said = refusal(encrypted.replace("name: hub", "name: bub"), key.identities)
    assert said.startswith("TamperedSecret: does not match its checksum")


def test_a_value_taken_out_breaks_the_checksum(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    del tree["stringData"]["text"]
    assert "checksum" in refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)


def test_values_that_changed_places_are_noticed(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    data = tree["stringData"]
    data["token"], data["text"] = data["text"], data["token"]
    said = refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)
    assert said == "TamperedSecret: stringData.token was changed or moved after it was encrypted"


def test_a_flipped_letter_of_a_value_is_noticed(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted)
    token = tree["stringData"]["token"]
    letter = "A" if token[22] != "A" else "B"
    tree["stringData"]["token"] = token[:22] + letter + token[23:]
    assert "TamperedSecret" in refusal(yaml.safe_dump(tree, sort_keys=False), key.identities)


def test_a_value_added_in_the_clear_is_refused(encrypted: str, key: Key):
    said = refusal(encrypted.replace("stringData:\n", "stringData:\n    more: hf_tested\n"), key.identities)
    assert said == "PlaintextSecret: stringData.more is not encrypted, as the file's own rule wants it"


def test_a_rule_that_leaves_data_in_the_clear_is_refused(key: Key):
    encrypted = encrypt(SECRET, key.recipient, rule="encrypted_regex: ^data$")
    assert refusal(encrypted, key.identities).startswith("PlaintextSecret: stringData.token is left in the clear")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"encrypted_comment_regex": "x"}, "sops.encrypted_comment_regex is not known here"),
        ({"key_groups": [], "age": None}, "sops.key_groups is not known here"),
        ({"mac": None}, "sops.mac is missing"),
        ({"mac": ""}, "sops.mac is missing"),
        ({"mac": "ENC[AES256_GCM,data:,iv:AAAA,tag:AAAA,type:str]"}, "does not match its checksum"),
        ({"lastmodified": "2020-01-01T00:00:00Z"}, "does not match its checksum"),
        ({"mac_only_encrypted": True}, "does not match its checksum"),
        ({"version": "4.0.0"}, "SOPS 4.0.0 is not known here"),
        ({"age": None}, "is encrypted for nobody, not for age"),
        ({"age": None, "pgp": [{"fp": "85D7"}]}, "is encrypted for pgp, not for age"),
        ({"age": [{"recipient": "age1x", "enc": "rubbish"}]}, "is encrypted for age1x, and age.key opens none"),
        ({"age": ["rubbish"]}, "age.key opens none"),
        ({"encrypted_regex": "^(a+)+$"}, "may hold words"),
        ({"encrypted_regex": "(data"}, "may hold words"),
        ({"encrypted_regex": 7}, "sops.encrypted_regex must be text"),
        ({"encrypted_suffix": "x"}, "sops holds both encrypted_regex and encrypted_suffix"),
    ],
)
def test_metadata_that_is_not_known_is_refused(encrypted: str, values: dict[str, Any], expected: str, key: Key):
    assert expected in refusal(changed(encrypted, **values), key.identities)


def test_metadata_must_be_a_mapping(encrypted: str, key: Key):
    tree = yaml.safe_load(encrypted) | {"sops": "3.11"}
    assert "expected the mapping" in refusal(yaml.safe_dump(tree), key.identities)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "hunter2\n", "AGE-SECRET-KEY-1QQQQ\n"])
def test_a_file_without_identities_is_refused_without_showing_it(text: str):
    with pytest.raises(Unfit) as caught:
        read_identities(text.encode(), "age.key")
    assert caught.value.message.startswith("age.key: holds")
    assert "hunter2" not in str(caught.value)
    assert "QQQQ" not in str(caught.value)


@pytest.mark.parametrize("package", ["pyrage", "cryptography"])
def test_a_missing_package_comes_with_the_command_that_installs_it(
    package: str, encrypted: str, key: Key, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = refusal(encrypted, key.identities)
    assert (
        said
        == f"SecretsUnreadable: needs the package {package}; run: {sys.executable} -m pip install pyrage cryptography"
    )


def test_an_identity_is_not_shown_by_its_repr(key: Key):
    assert "AGE-SECRET" not in repr(key.identities)
