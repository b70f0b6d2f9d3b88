"""Everything we raise on purpose. The tree answers one question: is it worth trying again?

ReconcileError
├── Stopping         we end: nothing is wrong
├── Retryable        the next pass may succeed: a network, a busy port, a full disk
│   └── Superseded      a newer revision is there to be read instead
└── Terminal         only a new commit or a new config can fix this
    ├── RevisionRefused a whole commit; the last good one stays
    │   └── Unverified      nobody who is trusted signed it
    ├── NotUnderstood   what a commit asks for is unknown: reading it takes too much
    ├── Unstartable     what git asks for can be started on no host
    ├── SettingsError   the config file; names the key
    └── ManifestError   a document in git; names file and line
"""

from __future__ import annotations


class ReconcileError(Exception):
    """Base of all our exceptions. The message says what, where, why and what to do next; never a secret."""


class Stopping(ReconcileError):
    """The request is cancelled, because the daemon ends."""


class Retryable(ReconcileError):
    """The next pass may succeed."""


class Superseded(Retryable):
    """Reading a revision was ended, because a newer one is there."""


class Terminal(ReconcileError):
    """Only a new commit or a new config can fix this."""


class Unstartable(Terminal):
    """No host could start it: the commit is to blame, and neither this host nor its config."""


class SettingsError(Terminal):
    """A setting is wrong; the message begins with the file and the key."""


class RevisionRefused(Terminal):
    """A revision cannot be accepted as a whole; the last good one stays."""

    def __init__(self, revision: str, message: str) -> None:
        super().__init__(message)
        self.revision = revision


class Unverified(RevisionRefused):
    """No signature that is trusted vouches for a revision."""


class NotUnderstood(Terminal):
    """The desired state of a revision cannot be computed within our limits."""


class ManifestError(Terminal):
    """A document in git is wrong."""

    def __init__(self, file: str, line: int, path: str, message: str) -> None:
        super().__init__(f"{file}:{line}: {path + ': ' if path else ''}{message}")
        self.file = file
        self.line = line
        self.path = path
        self.message = message
