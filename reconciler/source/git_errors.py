"""Why git could not read the remote, in words that say what to do; without credentials."""

from __future__ import annotations

import re

from reconciler.errors import ReconcileError, Retryable, Terminal
from reconciler.formats.git_address import Address
from reconciler.source.git import MOST_MEMORY, GitFailed

_LOGIN = {
    "https": "check source.token_file and source.username",
    "ssh": "check source.ssh_key_file, and that the server has its public key",
    "file": "check that this user may read it",
}
AGAIN = "trying again at the next interval"
_HINTS = (
    (r"host key verification failed|no .* host key is known", "put the server's key into source.known_hosts_file"),
    (
        r"out of memory|cannot allocate",
        f"git is given {MOST_MEMORY >> 30} GiB of memory: take out of the history what unfolds to more",
    ),
    (r"certificate|SSL", "check source.ca_file, or the server's certificate"),
    (r"could not read (username|password)|authentication failed|permission denied|access denied| 40[13]\b", ""),
    (r"not appear to be a git repository|not found|no such file", "check source.url, and that this login may read it"),
    (r"could not resolve|failed to connect|connection|timed out|no answer|network", AGAIN),
)
_NOISE = re.compile(r"^(fatal|error|remote|warning|hint):\s*", re.IGNORECASE)
# What a fetch says of how far it is, and what an older git says of checks that it does not know.
_PROGRESS = re.compile(
    r"^(remote: )?((Enumerating|Counting|Compressing|Receiving|Unpacking) objects|Resolving deltas|Total \d)"
    r"|^warning: Skipping unknown msg id",
    re.IGNORECASE,
)
_GENERIC = ("could not read from remote repository.", "please make sure you have the correct access rights", "and the")


def explain(error: GitFailed, address: Address, what: str, secrets: tuple[str, ...] = ()) -> ReconcileError:
    """The error to raise when git could not do `what` ("ask", "fetch from"). Only a broken history is Terminal."""
    output = clean(error.output, address, secrets)
    if re.search(r"fsck error|mismatched algorithms|unsupported object format", error.output):
        return Terminal(
            f"cannot {what} {address.shown}: {output}; its history is damaged or of an unknown format; the last good "
            "revision stays: push a history without that object"
        )
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, output, re.IGNORECASE)), _HINTS[-1][1])
    return Retryable(f"cannot {what} {address.shown}: {output}; {hint or _LOGIN[address.scheme]}")


def clean(output: str, address: Address, secrets: tuple[str, ...] = ()) -> str:
    """git's last message on one line, without credentials, control characters or uninformative sentences."""
    for secret in secrets:
        output = output.replace(secret, "***")
    output = re.sub(r"//[^/\s'\"]*@", "//", output.replace(address.url, address.shown))
    lines = [line.strip() for line in re.split(r"[\r\n]", output)]
    lines = [_NOISE.sub("", line) for line in lines if not _PROGRESS.search(line)]
    lines = ["".join(character if character.isprintable() else " " for character in line) for line in lines]
    telling = [line for line in lines if line and not line.lower().startswith(_GENERIC)]
    return (", ".join(dict.fromkeys(telling[-3:])) or "git gave no reason")[:400].rstrip(".")
