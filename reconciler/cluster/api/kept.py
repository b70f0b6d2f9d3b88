"""The objects of one watched kind, as lists, events and the answers to our own writes tell of them. Pure.

An answer may come before or after the event of the same write: the resource versions of one kind grow with each write,
and say which is newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.cluster.api.errors import Expired
from reconciler.model.objects import KubeObject, ObjectId


class Kept:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._objects: dict[ObjectId, KubeObject] = {}
        # The same, for those who read: made when it is asked for, after a change.
        self._frozen: Mapping[ObjectId, KubeObject] | None = None
        self._version: int | None = None

    @property
    def version(self) -> str:
        """Up to where the watch has told of everything: from there it goes on. "" before a list."""
        return "" if self._version is None else str(self._version)

    def seen(self) -> Mapping[ObjectId, KubeObject]:
        """All objects now; what is given does not change."""
        if self._frozen is None:
            self._frozen = dict(self._objects)
        return self._frozen

    def forget(self) -> None:
        """There are none, and nothing is known of them."""
        self._objects, self._frozen, self._version = {}, None, None

    def relist(self) -> None:
        """What is there stays until the next list, which says what is true."""
        self._version = None

    def replace(self, listed: Iterable[KubeObject], version: str) -> None:
        """Take what was listed, at this version, for all there is."""
        self._objects, self._frozen = {ObjectId.of(found): found for found in listed}, None
        self._version = int(version)

    def tell(self, version: str, found: KubeObject | None = None, *, is_gone: bool = False) -> bool:
        """An event of the watch: a bookmark, or an object that came, changed or went. False: that was known.

        Raises Expired when the history goes back, as after a restore.
        """
        if self._version is None or int(version) < self._version:
            raise Expired(f"the cluster's history goes back from {self.version} to {version}, as after a restore")
        self._version = int(version)
        if found is None:
            return False
        return self._remove(found) if is_gone else self._keep(found)

    def put(self, found: KubeObject, *, is_new_allowed: bool = True) -> None:
        """The answer to a write of ours. What the watch has passed it has told of: also that it was deleted since."""
        is_news = self._version is not None and _age(found) > self._version
        if is_news and (is_new_allowed or ObjectId.of(found) in self._objects):
            self._keep(found)

    def drop(self, id: ObjectId, uid: str) -> None:
        """The object with this uid is gone, by the answer to our delete."""
        seen = self._objects.get(id)
        if seen is not None and seen["metadata"].get("uid") == uid:
            del self._objects[id]
            self._frozen = None

    def _keep(self, found: KubeObject) -> bool:
        id = ObjectId.of(found)
        old = self._objects.get(id)
        if old is not None and _age(found) <= _age(old):
            return False
        self._objects[id], self._frozen = found, None
        return True

    def _remove(self, found: KubeObject) -> bool:
        id = ObjectId.of(found)
        old = self._objects.get(id)
        if old is None or _age(found) < _age(old):
            return False
        del self._objects[id]
        self._frozen = None
        return True


def _age(found: KubeObject) -> int:
    return int(found["metadata"]["resourceVersion"])
