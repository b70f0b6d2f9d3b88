"""The places where a host finds Secrets → one store. Read again when something there changes, and only then.

Of one Secret in several places the first counts: the host's own folder, systemd credentials, git.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.config.settings import SecretFolder, Secrets, TargetSettings
from reconciler.errors import Terminal
from reconciler.fault_isolation import caught
from reconciler.kserve import api_server
from reconciler.manifests import Manifest, Manifests, duplicate_of, find_duplicates
from reconciler.model import Bug, Reason, ReasonCode
from reconciler.secrets import folder, sops
from reconciler.secrets.decode import Unfit, decode, is_plain, sealed
from reconciler.secrets.folder import read_private
from reconciler.secrets.store import NO_SECRETS, Key, SecretStore, StoredSecret, with_data_connections

CREDENTIALS = "CREDENTIALS_DIRECTORY"
_AGE_KEY = "age.key"
# What no file here decides is tried again.
_AGAIN_SECONDS = 30.0


class SecretSources:
    """Reads the Secrets of one target. What it remembers is only a cache."""

    def __init__(
        self, settings: TargetSettings, environ: Mapping[str, str] = os.environ, *, is_sealed: bool = False
    ) -> None:
        """With `is_sealed` nothing is decrypted and no value is kept: only which Secrets there are, with which keys."""
        self._is_sealed = is_sealed
        self._settings = settings.secrets
        self._target = settings.name
        self._namespace = settings.default_namespace
        self._credentials = Path(environ[CREDENTIALS]) if environ.get(CREDENTIALS) else None
        self._manifests = Manifests()
        self._in_git: tuple[Manifest, ...] = ()
        self._seen: tuple[tuple[Manifest, ...], tuple[folder.Stamp, ...]] | None = None
        self._store = NO_SECRETS
        self._environ = environ
        self._opener = sops.Opener(environ)
        self._look_again_at = 0.0
        # Of what could not be read since it was last taken: for the log.
        self.bugs: list[Bug] = []

    @property
    def store(self) -> SecretStore:
        """What was read last."""
        return self._store

    def load(self, manifests: Manifests) -> SecretStore:
        """The store for a revision's manifests: the very same one while nothing changed. Never raises for bad input."""
        if manifests is not self._manifests:
            self._manifests, self._in_git = manifests, manifests.of_kind("Secret")
        # Looked at before they are read: what changes meanwhile is read again the next time.
        stamps = self.stamps()
        is_due = self._store.is_provisional and time.monotonic() >= self._look_again_at
        if is_due or (self._in_git, stamps) != self._seen:
            read = self._read(self._in_git)
            self._store = self._store if read.says_the_same(self._store) else read
            self._seen, self._look_again_at = (self._in_git, stamps), time.monotonic() + _AGAIN_SECONDS
        return self._store

    @property
    def seen_stamps(self) -> tuple[folder.Stamp, ...]:
        """What `stamps` said before the store was read."""
        return self._seen[1] if self._seen else ()

    def stamps(self) -> tuple[folder.Stamp, ...]:
        """Equal stamps: outside git nothing changed."""
        return tuple(folder.stamp(place) for place in self._places())

    def _places(self) -> Iterator[Path]:
        for place in (self._settings.directory, self._credentials, *self._settings.key_files):
            if place is not None:
                yield place

    def _read(self, in_git: tuple[Manifest, ...]) -> SecretStore:
        pile = _Pile()
        self._opener = sops.Opener(self._environ, self._opener)
        keys = _Identities(self._settings, self._credentials, self._target)
        if self._settings.directory is not None:
            self._add_folder(folder.read_folder(self._settings.directory), pile, keys)
        if self._credentials is not None:
            self._add_folder(folder.read_credentials(self._credentials), pile, keys)
        own_keys = {each: self._keys_of(each, keys) for each in self._settings.folders}
        number = Counter((each.built_by, each.origin.file) for each in in_git)
        misplaced = {each: self._misplaced(each, self._settings.folder_of(each.place)) for each in in_git}
        pile.misplaced += filter(None, misplaced.values())
        allowed = [each for each, problem in misplaced.items() if not problem]
        for manifest in pile.without_duplicates(allowed, self._namespace):
            folder_of_it = self._settings.folder_of(manifest.place)
            one = own_keys[folder_of_it] if folder_of_it else keys
            self._add(manifest, number, pile, one, plain=self._settings.allow_plaintext)
        return SecretStore(
            with_data_connections(pile.secrets),
            pile.refused,
            tuple(pile.unavailable),
            tuple(pile.notes),
            tuple(pile.misplaced),
        )

    def _keys_of(self, place: SecretFolder, keys: _Identities) -> _Identities:
        if place.age_key_file is None:
            return keys
        own = self._settings.model_copy(update={"age_key_file": place.age_key_file})
        return _Identities(own, None, self._target, alone=True)

    def _misplaced(self, manifest: Manifest, place: SecretFolder | None) -> Reason | None:
        """Why a Secret in git may not stand where it does: an encrypted file is easily copied, and renamed."""
        if not self._settings.folders:
            return None
        namespace = manifest.namespace or self._namespace
        allowed = self._settings.folders_for(namespace)
        setting = f"targets[].secrets.folders of {self._target}"
        if place is None or namespace not in place.namespaces:
            where = f"only in {', '.join(allowed)}" if allowed else "in no folder of git"
            text = (
                f"a Secret of namespace {namespace} may be {where}, according to {setting}; move it, or allow it there"
            )
        elif sops.is_encrypted(manifest.data) and not sops.covers_its_name(manifest.data) and not place.age_key_file:
            text = (
                "its checksum does not cover its name and namespace (mac_only_encrypted), which anyone can change; "
                f"encrypt it without that, or give {place.path} a key of its own: age_key_file in {setting}"
            )
        else:
            return None
        return Unfit(text, ("metadata",), ReasonCode.SECRET_NOT_ALLOWED).about(manifest)

    def _add_folder(self, parts: Iterator[Manifests], pile: _Pile, keys: _Identities) -> None:
        """Manifests from outside git, where data may stand as it is."""
        for part in parts:
            pile.unavailable += part.errors
            self.bugs += part.bugs
            number = Counter((each.built_by, each.origin.file) for each in part.documents)
            pile.notes += part.notes
            for manifest in part.documents:
                pile.notes += manifest.warnings
                if manifest.kind == "Secret":
                    self._add(manifest, number, pile, keys, plain=True)
                else:
                    text = f"{manifest.kind} {manifest.name} is not read here, only Secrets are"
                    pile.notes.append(Reason(ReasonCode.NOT_A_SECRET, text, manifest.origin))

    def _add(
        self,
        manifest: Manifest,
        number: Mapping[tuple[str, str], int],
        pile: _Pile,
        keys: _Identities,
        *,
        plain: bool,
    ) -> None:
        key = manifest.namespace or self._namespace, manifest.name
        try:
            if sops.is_encrypted(manifest.data):
                _check_alone(manifest, number)
                document: Mapping[str, object] = self._opened(manifest, keys)
            elif plain or not is_plain(manifest.data):
                document = sealed(manifest.data) if self._is_sealed else manifest.data
            else:
                raise self._disclosed(manifest)
            secret = decode(manifest, document, self._namespace)
            _check_fields(document)
            pile.take(secret)
        except Unfit as problem:
            pile.refused.setdefault(key, problem.about(manifest))
        except MemoryError:
            raise
        except Exception as error:
            # One Secret, and not the revision.
            reason, bug = caught(error, f"reading Secret {key[0]}/{key[1]}", manifest.origin)
            pile.refused.setdefault(key, reason)
            self.bugs.append(replace(bug, subject=f"{manifest.origin}: {bug.subject}"))

    def _opened(self, manifest: Manifest, keys: _Identities) -> Mapping[str, object]:
        """Raises Unfit."""
        return sealed(manifest.data) if self._is_sealed else self._opener.open(manifest, keys.identities())

    def _disclosed(self, manifest: Manifest) -> Unfit:
        """What to do about a Secret that stands in git unencrypted."""
        place = self._settings.directory or "a folder of this host, named in targets[].secrets.directory"
        text = (
            "its data is in git unencrypted, so it is not used. Replace the disclosed values; then encrypt the file "
            f"(sops encrypt -i --age RECIPIENT --encrypted-regex '^(data|stringData)$' {manifest.origin.file}), or "
            f"move it to {place}, or hand it to the daemon as a systemd credential "
            f"(LoadCredential={manifest.name}.yaml:PATH). targets[].secrets.allow_plaintext of {self._target} allows it"
        )
        return Unfit(text, ("data",) if manifest.data.get("data") else ("stringData",), ReasonCode.PLAINTEXT_SECRET)


def _check_fields(document: Mapping[str, object]) -> None:
    """What an API server refuses does not become a Secret. Raises Unfit."""
    for flaw in api_server.read(document)[1]:
        raise Unfit(flaw.message, flaw.path)


def _check_alone(manifest: Manifest, number: Mapping[tuple[str, str], int]) -> None:
    """SOPS' checksum goes over all documents of a file, whose `number` is given. Raises Unfit."""
    if number[manifest.built_by, manifest.origin.file] > 1:
        raise Unfit("an encrypted file may hold one document only; encrypt each in a file of its own", ("sops",))


class _Identities:
    """The age identities of this host, read when the first encrypted Secret needs them."""

    def __init__(self, settings: Secrets, credentials: Path | None, target: str, *, alone: bool = False) -> None:
        self._path = settings.age_key_file
        self._credential = credentials / _AGE_KEY if credentials else None
        self._target = target
        self._alone = alone
        self._known: sops.Identities | None = None

    def identities(self) -> sops.Identities:
        """Raises Unfit for a file that holds none."""
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> sops.Identities:
        try:
            if self._path is not None:
                return sops.read_identities(read_private(self._path), self._path, alone=self._alone)
            if self._credential is not None and self._credential.exists():
                return sops.read_identities(folder.read_open(self._credential), self._credential)
        except Terminal as error:
            text = f"no age identity: {error}"
            return sops.Identities(missing=text, code=ReasonCode.SECRETS_UNREADABLE, alone=self._alone)
        return sops.Identities(missing=f"targets[].secrets.age_key_file of {self._target} names no age identity")


@dataclass(slots=True)
class _Pile:
    """What is found, in order of precedence."""

    secrets: dict[Key, StoredSecret] = field(default_factory=dict)
    refused: dict[Key, Reason] = field(default_factory=dict)
    unavailable: list[Reason] = field(default_factory=list)
    notes: list[Reason] = field(default_factory=list)
    misplaced: list[Reason] = field(default_factory=list)

    def without_duplicates(self, manifests: list[Manifest], default_namespace: str) -> list[Manifest]:
        """Those of one place that can be distinguished by their names, or that do not count because of another place.

        Which of the others a cluster would have is up to the order in which they are applied.
        """
        dropped = set[Manifest]()
        for group in find_duplicates(manifests, default_namespace):
            key = group[0].namespace or default_namespace, group[0].name
            if key not in self.secrets and key not in self.refused:
                self.refused[key] = duplicate_of(group[0], group)
                dropped |= {*group}
        return [each for each in manifests if each not in dropped]

    def take(self, secret: StoredSecret) -> None:
        first = self.secrets.get(secret.key)
        if first is None and secret.key not in self.refused:
            self.secrets[secret.key] = secret
            return
        where = first.origin if first else self.refused[secret.key].origin
        text = f"Secret {secret.namespace}/{secret.name} is also at {where}; that one is used"
        self.notes.append(Reason(ReasonCode.SECRET_SHADOWED, text, secret.origin))
