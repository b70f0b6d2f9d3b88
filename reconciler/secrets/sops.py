"""A document encrypted by SOPS for age → what was encrypted, checked as a whole, in memory only.

SOPS encrypts each value with a data key, bound to the value's place, and the data key for each recipient. A checksum of
all values, encrypted as well, shows that none was changed, added, moved or removed. What we do not know is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from reconciler.secrets.decode import Unfit
from reconciler.secrets.store import UNREADABLE

_VALUE = re.compile(r"ENC\[AES256_GCM,data:([^,]*),iv:([^,]+),tag:([^,]+),type:(str|int|float|bool|bytes)\]")
_RULES = ("encrypted_regex", "unencrypted_regex", "encrypted_suffix", "unencrypted_suffix")
# Other keys that may open the file as well; none of them is ours.
_OTHER_KEYS = frozenset({"kms", "gcp_kms", "azure_kv", "hc_vault", "hckms", "pgp"})
_KNOWN = frozenset({"age", "lastmodified", "mac", "version", "mac_only_encrypted", *_RULES, *_OTHER_KEYS})
# Words, alternatives and anchors: nothing that a long name could make slow, or that Go reads in another way.
_PLAIN_REGEX = re.compile(r"[\w^$()|.-]{1,500}", re.ASCII)
# What the checksum begins with where it covers encrypted values alone: SOPS' own constant.
_ENCRYPTED_ONLY = hashlib.sha256(b"sops").digest()
_ANEW = "encrypt it anew with: sops encrypt --encrypted-regex '^(data|stringData)$' --age RECIPIENT"


@dataclass(frozen=True, slots=True)
class Identities:
    """The age identities of this host; `source` says where they were read, `missing` why there are none, by `code`."""

    keys: tuple[Any, ...] = field(default=(), repr=False)
    source: str = ""
    missing: str = ""
    code: str = "NoAgeKey"


def is_encrypted(document: Mapping[str, Any]) -> bool:
    """Does it carry SOPS' metadata?"""
    return "sops" in document


def covers_its_name(document: Mapping[str, Any]) -> bool:
    """Is what stands in the clear part of the checksum? Else anybody may give the Secret another name."""
    metadata = document["sops"]
    return not (isinstance(metadata, dict) and metadata.get("mac_only_encrypted"))


def read_identities(data: bytes, source: str) -> Identities:
    """The identities in an age key file. Raises Unfit."""
    pyrage = _library("pyrage")
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    try:
        keys = tuple(pyrage.x25519.Identity.from_str(word) for word in words)
    except pyrage.IdentityError:
        raise Unfit(f"{source}: holds something else than age's AGE-SECRET-KEY-1… lines") from None
    if not keys:
        raise Unfit(f"{source}: holds no AGE-SECRET-KEY-1… line; make one with age-keygen")
    return Identities(keys, source)


def decrypt(document: Mapping[str, Any], identities: Identities) -> dict[str, Any]:
    """The document without SOPS' metadata, every value in the clear. Raises Unfit."""
    metadata = _checked(document["sops"])
    is_hidden = _rule(metadata)
    opener = _Opener(_data_key(metadata, identities))
    body = {key: value for key, value in document.items() if key != "sops"}
    values: list[tuple[bool, bytes]] = []

    def open_leaf(value: Any, path: tuple[str, ...]) -> Any:
        if value is None:
            return None
        hidden = is_hidden(path)
        if not hidden and value != "" and path[0] in ("data", "stringData"):
            raise Unfit(
                f"{'.'.join(path)} is left in the clear by the file's own rule; {_ANEW}", path, "PlaintextSecret"
            )
        clear = opener.open(value, path) if hidden else value
        values.append((hidden, _bytes_of(clear)))
        return clear

    clear = _walk(body, (), open_leaf)
    _check_sum(metadata, values, opener)
    return dict(clear)


# ---------------------------------------------------------------- metadata


def _checked(metadata: Any) -> Mapping[str, Any]:
    if not isinstance(metadata, dict):
        raise Unfit("sops: expected the mapping that SOPS writes", ("sops",))
    if unknown := sorted(metadata.keys() - _KNOWN):
        raise Unfit(f"sops.{unknown[0]} is not known here; {_ANEW}", ("sops", unknown[0]))
    for name in ("mac", "lastmodified", "version"):
        if not isinstance(metadata.get(name), str) or not metadata[name]:
            raise Unfit(f"sops.{name} is missing: the file is not as SOPS wrote it", ("sops",))
    if not str(metadata["version"]).startswith("3."):
        raise Unfit(f"SOPS {metadata['version']} is not known here; use SOPS 3", ("sops", "version"))
    return metadata


def _rule(metadata: Mapping[str, Any]) -> Callable[[tuple[str, ...]], bool]:
    """Which values are encrypted, by their path."""
    given = [(name, metadata[name]) for name in _RULES if metadata.get(name)]
    if len(given) > 1:
        raise Unfit(f"sops holds both {given[0][0]} and {given[1][0]}; SOPS takes one", ("sops", given[1][0]))
    name, rule = given[0] if given else ("unencrypted_suffix", "_unencrypted")
    matches = _matcher(name, rule)
    hides = name.startswith("encrypted")
    return lambda path: hides == any(matches(part) for part in path)


def _matcher(name: str, rule: Any) -> Callable[[str], bool]:
    if not isinstance(rule, str):
        raise Unfit(f"sops.{name} must be text", ("sops", name))
    if name.endswith("suffix"):
        return lambda part: part.endswith(rule)
    try:
        if not _PLAIN_REGEX.fullmatch(rule):
            raise re.error("more than words")
        # Go's `$` is the very end; Python's would also stand before a line end.
        found = re.compile(rule.replace("$", r"\Z"))
    except re.error:
        raise Unfit(f"sops.{name} may hold words, (, ), |, ^, $, . and - only; {_ANEW}", ("sops", name)) from None
    return lambda part: found.search(part) is not None


def _data_key(metadata: Mapping[str, Any], identities: Identities) -> bytes:
    entries = metadata.get("age")
    if not isinstance(entries, list) or not entries:
        others = ", ".join(sorted(name for name in _OTHER_KEYS if metadata.get(name))) or "nobody"
        raise Unfit(f"is encrypted for {others}, not for age; add a recipient: sops rotate -i --add-age age1… FILE")
    if not identities.keys:
        raise Unfit(f"is encrypted, and {identities.missing}", ("sops",), identities.code)
    pyrage = _library("pyrage")
    for entry in entries:
        armored = entry.get("enc") if isinstance(entry, dict) else None
        try:
            key: bytes = pyrage.decrypt(str(armored).encode(), identities.keys)
        except (pyrage.DecryptError, ValueError):
            continue
        if len(key) == 32:
            return key
    raise Unfit(_not_for_us(entries, identities), ("sops", "age"), "WrongAgeKey")


def _not_for_us(entries: Iterable[Any], identities: Identities) -> str:
    recipients = ", ".join(str(each.get("recipient")) for each in entries if isinstance(each, dict))
    ours = str(identities.keys[0].to_public())
    return (
        f"is encrypted for {recipients}, and {identities.source} opens none of these; "
        f"add this host: sops rotate -i --add-age {ours} FILE"
    )


# ---------------------------------------------------------------- values


def _walk(value: Any, path: tuple[str, ...], leaf: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    """Items of a list have their list's path."""
    if isinstance(value, dict):
        return {key: _walk(each, (*path, key), leaf) for key, each in value.items()}
    if isinstance(value, list):
        return [_walk(each, path, leaf) for each in value]
    return leaf(value, path)


class _Opener:
    """Opens the values of one document."""

    def __init__(self, key: bytes) -> None:
        aead = _library("cryptography.hazmat.primitives.ciphers.aead", "cryptography")
        self._cipher = aead.AESGCM(key)
        self._tampered = _library("cryptography.exceptions", "cryptography").InvalidTag

    def open(self, value: Any, path: tuple[str, ...]) -> Any:
        """The value at a path. Raises Unfit for what is no encrypted value, or one from another place."""
        if value == "":
            return ""
        name = ".".join(path)
        match = _VALUE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Unfit(f"{name} is not encrypted, as the file's own rule wants it", path, "PlaintextSecret")
        data = self.open_raw(match, ":".join(path) + ":")
        if data is None:
            raise Unfit(f"{name} was changed or moved after it was encrypted", path, "TamperedSecret")
        return _typed(data, match[4], name, path)

    def open_raw(self, match: re.Match[str], place: str) -> bytes | None:
        """None when the text is not what was encrypted for this place."""
        try:
            data, nonce, tag = (base64.b64decode(match[number], validate=True) for number in (1, 2, 3))
            opened: bytes = self._cipher.decrypt(nonce, data + tag, place.encode())
        except (self._tampered, binascii.Error, ValueError):
            return None
        return opened


def _typed(data: bytes, kind: str, name: str, path: tuple[str, ...]) -> Any:
    try:
        text = data.decode()
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"True": True, "False": False, "true": True, "false": False}[text]
    except (ValueError, KeyError):
        raise Unfit(f"{name} does not hold what its type says", path) from None
    return text


def _bytes_of(value: Any) -> bytes:
    """A value as the checksum takes it: numbers as Go prints them, truth values in title case."""
    if isinstance(value, float):
        return _go_float(value).encode()
    return str(value).encode()


def _go_float(value: float) -> str:
    """The shortest digits that give the same number, never with an exponent."""
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


def _check_sum(metadata: Mapping[str, Any], values: Iterable[tuple[bool, bytes]], opener: _Opener) -> None:
    encrypted_only = metadata.get("mac_only_encrypted") is True
    digest = hashlib.sha512(_ENCRYPTED_ONLY if encrypted_only else b"")
    for data in _summed(values, encrypted_only):
        digest.update(data)
    match = _VALUE.fullmatch(metadata["mac"])
    stated = opener.open_raw(match, metadata["lastmodified"]) if match else None
    if stated is None or not hmac.compare_digest(stated, digest.hexdigest().upper().encode()):
        text = "does not match its checksum (sops.mac): it was changed without SOPS; change it with: sops edit FILE"
        raise Unfit(text, ("sops", "mac"), "TamperedSecret")


def _summed(values: Iterable[tuple[bool, bytes]], encrypted_only: bool) -> Iterator[bytes]:
    return (data for hidden, data in values if hidden or not encrypted_only)


def _library(module: str, package: str = "pyrage") -> Any:
    """Only who uses SOPS needs these packages. Raises Unfit with the command that installs what is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        text = f"needs the package {package}; run: {sys.executable} -m pip install pyrage cryptography"
        raise Unfit(text, ("sops",), UNREADABLE) from None
