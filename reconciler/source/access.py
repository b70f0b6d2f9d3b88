"""What git is given for one call: its environment, the answer to its password question, its ssh command."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import SourceSettings
from reconciler.errors import Retryable, Terminal
from reconciler.formats.git_address import Address
from reconciler.source.local_repository import git_folder

# Faults of old, honest histories; they mean nothing where nothing is checked out.
_HARMLESS = (
    *("badDate", "badDateOverflow", "badEmail", "badName", "badTimezone", "missingEmail", "missingNameBeforeEmail"),
    *("missingSpaceBeforeDate", "missingSpaceBeforeEmail", "multipleAuthors", "zeroPaddedDate", "zeroPaddedFilemode"),
    *("gitmodulesBlob", "gitmodulesLarge", "gitmodulesMissing", "gitmodulesName", "gitmodulesParse"),
    *("gitmodulesPath", "gitmodulesSymlink", "gitmodulesUpdate", "gitmodulesUrl"),
    *("gitattributesBlob", "gitattributesLarge", "gitattributesLineLength", "gitattributesMissing"),
    *("symlinkPointsToGitDir", "symlinkTargetBlob", "symlinkTargetLength", "symlinkTargetMissing"),
    *("badGpgsig", "badHeaderContinuation", "largePathname", "nulInCommit"),
)

# It answers for the server that the config names and for no other: a redirect elsewhere gets nothing.
_ASKPASS = """#!/bin/sh
[ -n "$RECONCILER_GIT_TOKEN" ] || exit 1
case "$1" in
  "Username for 'https://$RECONCILER_GIT_HOST': ") printf '%s\\n' "$RECONCILER_GIT_USERNAME" ;;
  "Password for 'https://"*"@$RECONCILER_GIT_HOST': ") printf '%s\\n' "$RECONCILER_GIT_TOKEN" ;;
  *) exit 1 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """The private folder: the mirror and the few files that git needs with it. Closed to other users."""

    root: Path

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def accepted(self) -> Path:
        return self.root / "accepted.json"

    @property
    def refused(self) -> Path:
        return self.root / "refused.json"

    @property
    def verified(self) -> Path:
        return self.root / "verified.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def gitconfig(self) -> Path:
        return self.root / "gitconfig"

    @property
    def askpass(self) -> Path:
        return self.root / "askpass"

    def prepare(self, local: Path | None) -> None:
        """Make what is missing. `local` is a repository of this machine whose owner git need not ask about."""
        try:
            self.home.mkdir(0o700, parents=True, exist_ok=True)
            for path in (self.root, self.home):
                if path.stat().st_mode & 0o077:
                    path.chmod(0o700)
            write_file(self.askpass, _ASKPASS.encode(), 0o700)
            write_file(self.gitconfig, _gitconfig(local).encode(), 0o600)
        except OSError as error:
            what = "the owner of state_dir" if isinstance(error, PermissionError) else "state_dir and its disk"
            raise Retryable(f"cannot prepare {self.root}: {error.strerror}; check {what}") from None


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Put the data there in one step, or leave what is there if it is the same already."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
            return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gitconfig(local: Path | None) -> str:
    """The only configuration that git reads except the mirror's own.

    A file and not GIT_CONFIG_COUNT: git clears that variable for the upload-pack it starts on a local repository, which
    is the process that asks who owns it.
    """
    lines = ["[core]", "hooksPath = /dev/null", "fsync = all", "[protocol]", "version = 2"]
    # Tidying up happens in the foreground, while we hold the lock.
    lines += ["[gc]", "autoDetach = false", "[maintenance]", "autoDetach = false"]
    # Whatever is fetched becomes one file, whose size can be limited; what nothing leads to any more is not kept.
    lines += ["[gc]", "pruneExpire = now", "bigPackThreshold = 64m", "[fetch]", "unpackLimit = 1"]
    # Large contents are streamed, and no more threads work than the memory of one call is enough for.
    lines += ["[core]", "bigFileThreshold = 64m", "[pack]", "threads = 4", "windowMemory = 128m"]
    lines += ["[fetch]", "fsckObjects = true", '[fetch "fsck"]', *(f"{name} = ignore" for name in _HARMLESS)]
    if local is not None:
        # Setting it in our config is the owner's statement that it may be read; older and newer git need different
        # names.
        real = Path(os.path.realpath(local))
        safe = dict.fromkeys(
            str(path) for path in (local, local / ".git", real, real / ".git", git_folder(real)) if path
        )
        lines += ["[safe]", *(f"directory = {_quoted(path)}" for path in safe)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def local_environment(folder: Folder) -> dict[str, str]:
    """For calls that touch the mirror alone: no protocol at all is allowed."""
    return {
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(folder.gitconfig),
        "GIT_ATTR_NOSYSTEM": "1",
        # A replace ref of the remote must not change what a revision means, nor a path act as a pattern.
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ASKPASS": str(folder.askpass),
        "HOME": str(folder.home),
        "XDG_CONFIG_HOME": str(folder.home),
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }


def remote_environment(folder: Folder, settings: SourceSettings, address: Address) -> dict[str, str]:
    """For calls that talk to the remote, over its own protocol only. Raises Retryable when a token cannot be read."""
    env = local_environment(folder) | {"GIT_ALLOW_PROTOCOL": address.scheme}
    if address.scheme == "https":
        env |= _https(settings, address)
    if address.scheme == "ssh":
        env |= {"GIT_SSH_COMMAND": ssh_command(settings), "GIT_SSH_VARIANT": "ssh"}
    return env


def _https(settings: SourceSettings, address: Address) -> dict[str, str]:
    env = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": str(max(1, int(settings.timeout)))}
    if settings.ca_file is not None:
        env["GIT_SSL_CAINFO"] = str(_readable(settings.ca_file, "ca_file"))
    if settings.token_file is not None:
        env["RECONCILER_GIT_HOST"] = address.host
        env["RECONCILER_GIT_USERNAME"] = address.username or settings.username
        env["RECONCILER_GIT_TOKEN"] = read_token(settings.token_file)
    return env


def read_token(path: Path) -> str:
    """The one line of the token's file. It is read for every call, so that a new token needs no restart."""
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Retryable(f"source.token_file: {path} cannot be read: {why}") from None
    if not token or not token.isprintable():
        raise Retryable(f"source.token_file: {path} must hold the token alone, on one line")
    return token


def _readable(path: Path, key: str) -> Path:
    if not os.access(path, os.R_OK):
        raise Retryable(f"source.{key}: {path} is not there or cannot be read; create it or correct source.{key}")
    return path


def ssh_command(settings: SourceSettings) -> str:
    """The ssh that git starts: never prompts, never trusts an unknown host, reads only our configuration."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "ClearAllForwardings=yes"]
    # A host that went silent must not hold the call forever, even if the daemon is gone by then.
    options += [f"ConnectTimeout={max(1, int(settings.timeout))}", "ServerAliveInterval=15", "ServerAliveCountMax=3"]
    if settings.known_hosts_file is not None:
        options.append(f"UserKnownHostsFile={_ssh_path(settings.known_hosts_file, 'known_hosts_file')}")
        options.append("GlobalKnownHostsFile=/dev/null")
    if settings.ssh_key_file is not None:
        options.append(f"IdentityFile={_ssh_path(settings.ssh_key_file, 'ssh_key_file')}")
        options.append("IdentitiesOnly=yes")
    return shlex.join(["ssh", "-F", "none", *(f"-o{option}" for option in options)])


def _ssh_path(path: Path, key: str) -> str:
    """A path as ssh's own option parser reads it back. It expands `%` and `${}` and has no way to escape a quote."""
    text = str(path)
    if not text.isprintable() or any(character in text for character in '"$\\'):
        raise Terminal(f'source.{key}: ssh cannot be given a path with " or $ or \\ in it; choose another path')
    return '"' + str(_readable(path, key)).replace("%", "%%") + '"'
