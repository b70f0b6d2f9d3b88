"""The protocol of daemon and worker: frames on a socket. What did not change is not sent again.

The worker handles what strangers wrote, so its answer is bounded, and can become nothing but our own plain data.
"""

from __future__ import annotations

import io
import math
import pickle
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from reconciler.evaluation.evaluator import Evaluated
from reconciler.manifests import is_kustomization
from reconciler.model import Desired, DesiredObject, DesiredState, File, ReasonCode, Snapshot
from reconciler.model import desired as desired_model
from reconciler.model import names as names_model
from reconciler.model import objects as objects_model
from reconciler.secrets import SecretStore, StoredSecret

# Twenty thousand services make a quarter of it.
LONGEST_ANSWER = 128 << 20
_LENGTH = struct.Struct("!Q")
_PIECE = 1 << 20
_KEPT = tuple(each.name for each in fields(DesiredState) if each.name not in ("services", "objects", "revision"))


def _is_data(each: object) -> bool:
    return isinstance(each, type) and is_dataclass(each)


_MODELS = (desired_model, names_model, objects_model)
_PLAIN: Mapping[tuple[str, str], type] = {
    (each.__module__, each.__qualname__): each
    for each in (
        *(each for model in _MODELS for each in vars(model).values() if _is_data(each)),
        *(ReasonCode, SecretStore, StoredSecret, frozenset, set),
    )
}


class TooLongError(Exception):
    """The result is larger than the limit."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _PLAIN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a result must not contain a {module}.{name}") from None


@dataclass(frozen=True, slots=True)
class EvaluationDelta:
    """The desired state of one target: lists of services and objects, and of all else only what changed.

    A number is one of the previous result. `secrets` is None where they are as before.
    """

    services: list[int | Desired]
    objects: list[int | DesiredObject]
    changed: dict[str, Any]
    secrets: SecretStore | None
    stamps: tuple[Any, ...]


def dump_request(snapshot: Snapshot, known: frozenset[tuple[str, str]]) -> bytes:
    """A revision without the contents of the files that the worker knows, by path and object id.

    What kustomize may build is sent as a whole: it is built of contents, and the worker keeps only what they mean.
    """
    refused = (each.origin.file for each in snapshot.refused if each.origin)
    if any(map(is_kustomization, (*refused, *(each.path for each in snapshot.files)))):
        known = frozenset()
    files = [(each.path, each.oid, b"" if (each.path, each.oid) in known else each.data) for each in snapshot.files]
    return pickle.dumps((files, replace(snapshot, files=(), skipped=dict(snapshot.skipped))), 5)


def load_request(data: bytes) -> Snapshot:
    """For the worker, which trusts the daemon."""
    files, snapshot = pickle.loads(data)  # noqa: S301
    return replace(cast(Snapshot, snapshot), files=tuple(File(*each) for each in files))


def dump_answers(
    now: Mapping[str, Evaluated], before: Mapping[str, Evaluated], unread: Collection[tuple[str, str]] = ()
) -> bytes:
    """The results for all targets, by name, and files whose contents the worker does not keep afterwards."""
    answers = {name: _answer(each, before.get(name)) for name, each in now.items()}
    plain = {name: tuple(getattr(each, part.name) for part in fields(each)) for name, each in answers.items()}
    return pickle.dumps((plain, tuple(unread)), 5)


def load_answers(
    data: bytes, revision: str, before: Mapping[str, Evaluated]
) -> tuple[dict[str, Evaluated], frozenset[tuple[str, str]]]:
    """The inverse of `dump_answers`, with the same `before`. Raises UnpicklingError for what may not be there."""
    found, unread = cast(tuple[dict[str, tuple[Any, ...]], Any], _Unpickler(io.BytesIO(data)).load())
    joined = {name: _joined(EvaluationDelta(*each), name, revision, before.get(name)) for name, each in found.items()}
    return joined, frozenset(unread)


def _answer(now: Evaluated, before: Evaluated | None) -> EvaluationDelta:
    wanted = now.desired
    if before is None:
        changed = dict(_values(wanted))
        return EvaluationDelta(list(wanted.services), list(wanted.objects), _plain(changed), now.secrets, now.stamps)
    services = _by_place(wanted.services, before.desired.services)
    objects = _by_place(wanted.objects, before.desired.objects)
    changed = {name: value for name, value in _values(now.desired) if value != getattr(before.desired, name)}
    secrets = None if now.secrets is before.secrets else now.secrets
    return EvaluationDelta(services, objects, _plain(changed), secrets, now.stamps)


_One = TypeVar("_One")


def _by_place(now: Sequence[_One], before: Sequence[_One]) -> list[int | _One]:
    places = {id(each): index for index, each in enumerate(before)}
    return [places.get(id(each), each) for each in now]


def _by_value(places: Sequence[int | _One], before: Sequence[_One]) -> tuple[_One, ...]:
    return tuple(before[each] if isinstance(each, int) else each for each in places)


def _values(desired: DesiredState) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(desired, name)) for name in _KEPT)


def _plain(changed: dict[str, Any]) -> dict[str, Any]:
    """A proxy of a mapping cannot be said."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in changed.items()}


def _joined(answer: EvaluationDelta, name: str, revision: str, before: Evaluated | None) -> Evaluated:
    last = before or Evaluated(DesiredState(name, revision, ()), SecretStore())
    services = _by_value(answer.services, last.desired.services)
    objects = _by_value(answer.objects, last.desired.objects)
    desired = replace(last.desired, services=services, objects=objects, revision=revision, **answer.changed)
    return Evaluated(desired, answer.secrets or last.secrets, answer.stamps)


# ---------------------------------------------------------------- frames


def send(to: socket.socket, data: bytes) -> None:
    """Raises OSError; TimeoutError where the other end takes nothing for as long as the socket's timeout."""
    to.sendall(_LENGTH.pack(len(data)))
    # A timeout of `sendall` is one of all that it is given.
    for begin in range(0, len(data), _PIECE):
        to.sendall(memoryview(data)[begin : begin + _PIECE])


def receive(of: socket.socket, most: int, deadline: float = math.inf, silence: float | None = None) -> bytes:
    """Raises EOFError when the other end has closed, TimeoutError at the deadline or after a silence, TooLongError."""
    (length,) = _LENGTH.unpack(_exactly(of, _LENGTH.size, deadline, silence))
    if length > most:
        raise TooLongError
    return bytes(_exactly(of, length, deadline, silence))


def _exactly(of: socket.socket, length: int, deadline: float, silence: float | None) -> bytearray:
    data = bytearray()
    while len(data) < length:
        if silence is not None:
            of.settimeout(max(0.001, min(silence, deadline - time.monotonic())))
        piece = of.recv(min(_PIECE, length - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return data
