"""What gpg's status lines and ssh-keygen's words say of a signature. Pure; others wrote parts of these texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.config.forge import VerifySettings
from reconciler.model import Signer

_LONGEST_NAME = 200
_GOOD_GPG = re.compile(r"^\[GNUPG:\] GOODSIG [0-9A-F]+ (.*)$", re.MULTILINE)
_VALID_GPG = re.compile(r"^\[GNUPG:\] VALIDSIG (?:\S+ ){9}([0-9A-F]{40,64})$", re.MULTILINE)
_BY_WHOM_GPG = re.compile(r"^\[GNUPG:\] (EXPKEYSIG|REVKEYSIG|EXPSIG|BADSIG) ([0-9A-F]+) (.*)$", re.MULTILINE)
_UNKNOWN_GPG = re.compile(r"^\[GNUPG:\] ERRSIG ([0-9A-F]+)(?: \S+){4} 9(?: ([0-9A-F]{40,64}))?", re.MULTILINE)
_SSH_KEY = r"with \S+ key (SHA256:[A-Za-z0-9+/]{43})$"
_GOOD_SSH = re.compile(rf'^Good "git" signature for (.+) {_SSH_KEY}', re.MULTILINE)
_UNKNOWN_SSH = re.compile(rf'^Good "git" signature {_SSH_KEY}', re.MULTILINE)
_BAD = "has a bad signature: it was not made for this content"


@dataclass(frozen=True, slots=True)
class SignatureFault:
    """What is wrong with one commit or tag, and what helps."""

    what: str
    fix: str = ""


def signers_of(said: str) -> list[Signer]:
    """Whom git's good answers name, one for each commit or tag that was asked about; none where that is not clear."""
    names, prints = _GOOD_GPG.findall(said), _VALID_GPG.findall(said)
    if len(names) != len(prints):
        return []
    found = [*zip(names, prints, strict=True), *_GOOD_SSH.findall(said)]
    return [Signer(_printable(name), fingerprint) for name, fingerprint in found]


def fault_of(said: str, signature: str, verify: VerifySettings) -> SignatureFault:
    """Why a signature does not count. `signature` is the word with which it begins: `SSH SIGNATURE`; `?`: another."""
    if not signature:
        return SignatureFault("is not signed")
    if signature == "SIGNED MESSAGE":
        return SignatureFault("is signed with an X.509 certificate, which is not supported", "sign with OpenPGP or SSH")
    if signature == "?":
        return SignatureFault("has a signature of no known kind", "sign with OpenPGP or SSH")
    if signature == "SSH SIGNATURE":
        return _ssh_fault(said, str(verify.allowed_signers_file or ""))
    return _gpg_fault(said, str(verify.gpg_keys_file or ""))


def _gpg_fault(said: str, file: str) -> SignatureFault:
    if not file:
        return SignatureFault("is signed with OpenPGP, and no such key is trusted", "set source.verify.gpg_keys_file")
    if found := _UNKNOWN_GPG.search(said):
        key = found[2] or found[1]
        return SignatureFault(f"is signed by the unknown OpenPGP key {key}", f"if you trust it, add it to {file}")
    found = _BY_WHOM_GPG.search(said)
    match found[1] if found else "":
        case "EXPKEYSIG":
            what, fix = "is signed by {}, whose key has expired", f"extend that key and export it to {file}"
        case "REVKEYSIG":
            what, fix = "is signed by {}, whose key is revoked", "sign with another key"
        case "EXPSIG":
            what, fix = "is signed by {}, and the signature has expired", ""
        case "BADSIG":
            what, fix = _BAD, ""
        case _:
            what, fix = "has a signature that gpg cannot verify", ""
    who = f"{_printable(found[3])} ({found[2]})" if found else ""
    return SignatureFault(what.format(who), fix)


def _ssh_fault(said: str, file: str) -> SignatureFault:
    if not file:
        return SignatureFault(
            "is signed with SSH, and no such key is trusted", "set source.verify.allowed_signers_file"
        )
    if "key is not permitted for use in signature namespace" in said:
        return SignatureFault(
            f"is signed by a key that {file} allows for other namespaces only", "allow the namespace git there"
        )
    if found := _UNKNOWN_SSH.search(said):
        if "key has expired" in said or "key is not yet valid" in said:
            fix = f"correct valid-after and valid-before in {file}, or sign with another key"
            return SignatureFault(f"is signed by the SSH key {found[1]}, which {file} does not allow at its date", fix)
        return SignatureFault(f"is signed by the unknown SSH key {found[1]}", f"if you trust it, add it to {file}")
    if "incorrect signature" in said:
        return SignatureFault(_BAD)
    return SignatureFault("has a signature that ssh-keygen cannot verify")


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_LONGEST_NAME]
