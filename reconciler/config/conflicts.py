"""Contradictions between parts of a config: each conflict with the place of the later part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import TYPE_CHECKING, TypeAlias

from reconciler.config.values import exclude_each_other, is_loopback, split_listen
from reconciler.formats.strict_yaml import FieldPath

if TYPE_CHECKING:
    from reconciler.config.settings import HostSettings, Settings

# What the daemon keeps in state_dir in addition to the folders of targets.
KEPT = ("git", "outbox.db", "pull_requests", "sessions.db", "state.db", "targets.json")
Conflict: TypeAlias = tuple[FieldPath, str]


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """All contradictions in a config."""
    yield from _names(settings)
    yield from _repeated(("web", "webhooks"), [each.name for each in settings.web.webhooks])
    yield from _repeated(("web", "peers"), [each.name for each in settings.web.peers])
    yield from _login(settings)
    yield from _repeated(("notifications",), [each.name for each in settings.notifications])
    yield from _root(settings)
    yield from _own_folders(settings)
    yield from _gpus(settings)
    yield from _models(settings)
    yield from _addresses(settings)
    yield from _ports(settings)
    if settings.socket and settings.socket in (settings.state_dir, *_kept(settings)):
        yield (
            ("socket",),
            f"{settings.socket} holds other files of the daemon; choose another path, or remove the setting",
        )


def _kept(settings: Settings) -> list[object]:
    return [settings.state_dir / name for name in (*KEPT, *(target.name for target in settings.targets))]


def _names(settings: Settings) -> Iterator[Conflict]:
    for index, target in enumerate(settings.targets):
        place = ("targets", index, "name")
        if target.name in KEPT:
            yield place, f"{target.name} is a folder of our own in state_dir; choose another name"
        if any(target.name == other.name for other in settings.targets[:index]):
            yield place, f"two targets have the same name, {target.name}; choose another one"


def _repeated(place: FieldPath, names: list[str]) -> Iterator[Conflict]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*place, index, "name"), f"{name} is another one's name as well; choose another one"


def _login(settings: Settings) -> Iterator[Conflict]:
    """Nobody else may read what somebody logs in with, and every token is one person's."""
    web = settings.web
    if web.auth.is_used and not web.is_https and not is_loopback(web.listen):
        yield (
            ("web", "auth"),
            f"whoever is between a browser and {web.listen} could read tokens and sessions; set web.tls, or web.url to "
            "the https address of a proxy in front of it, or listen on a loopback address",
        )
    tokens = [each.sha256 for each in web.auth.tokens]
    yield from _repeated(("web", "auth", "tokens"), [each.name for each in web.auth.tokens])
    for index, sha256 in enumerate(tokens):
        if sha256 in tokens[:index]:
            yield ("web", "auth", "tokens", index, "sha256"), "another one has the same token; make one for each"


def _root(settings: Settings) -> Iterator[Conflict]:
    """Another name of the same user is found when the daemon starts."""
    for index, target in settings.numbered_hosts:
        if target.user == "root" and not target.allow_root:
            text = "replicas would run as root, and so would any pushed code; set another user, or allow_root: true"
            yield ("targets", index, "user"), text


def _own_folders(settings: Settings) -> Iterator[Conflict]:
    """The last folder of a target is its own: what another one reads of it would be started twice."""
    for (index, target), (_, other) in permutations(enumerate(settings.targets), 2):
        for position, path in enumerate(target.paths):
            if _holds(path, other.own_path):
                yield (
                    ("targets", index, "paths", position),
                    f"{target.name} reads {path or 'the whole repository'} and with it {other.own_path or 'all'}, the "
                    f"own folder of {other.name}, whose services would be started twice; choose other folders",
                )


def _holds(folder: str, other: str) -> bool:
    return folder in ("", other) or other.startswith(f"{folder}/")


def _gpus(settings: Settings) -> Iterator[Conflict]:
    """What `auto` finds is known only when we run."""
    owners: dict[str, str] = {}
    for index, target in settings.numbered_hosts:
        for position, uuid in enumerate(target.gpus if target.gpus != "auto" else ()):
            if uuid in owners:
                yield ("targets", index, "gpus", position), _twice(uuid, owners[uuid], target.name)
            owners.setdefault(uuid, target.name)


def _twice(uuid: str, owner: str, target: str) -> str:
    if owner == target:
        return f"{uuid} is listed twice"
    return f"targets {owner} and {target} both list {uuid} in gpus; one may have it"


def _models(settings: Settings) -> Iterator[Conflict]:
    """A folder of models is cleaned of all that its target does not need."""
    for index, target in settings.numbered_hosts:
        folder = target.storage.folder
        if folder and (settings.state_dir.is_relative_to(folder) or folder in _kept(settings)):
            yield (
                ("targets", index, "storage", "folder"),
                f"{folder} holds what else we keep in state_dir; write a folder for models alone",
            )
    for (_, first), (index, second) in _pairs(settings):
        one, other = first.storage.folder, second.storage.folder
        if one and other and (one.is_relative_to(other) or other.is_relative_to(one)):
            yield (
                ("targets", index, "storage", "folder"),
                f"{first.name} and {second.name} keep models in the same folder; each deletes what it does not need "
                "itself, so give each its own",
            )


def _addresses(settings: Settings) -> Iterator[Conflict]:
    for (first, one, _), (second, other, place) in combinations(_listens(settings), 2):
        if exclude_each_other(one, other):
            yield place, f"{second} listens on {other}, which {first} ({one}) takes already; write another port"


def _ports(settings: Settings) -> Iterator[Conflict]:
    for (_, first), (index, second) in _pairs(settings):
        if set(first.port_range) & set(second.port_range):
            yield (
                ("targets", index, "ports"),
                f"replicas of {first.name} ({first.ports}) and {second.name} ({second.ports}) share ports; "
                "write ranges that do not overlap",
            )
    for target in settings.hosts:
        for name, listen, place in _listens(settings):
            if split_listen(listen)[1] in target.port_range:
                yield (
                    place,
                    f"{name} listens on {listen}, in the range for replicas of {target.name} (ports: {target.ports}); "
                    "write another port",
                )


def _pairs(settings: Settings) -> Iterator[tuple[tuple[int, HostSettings], tuple[int, HostSettings]]]:
    return combinations(settings.numbered_hosts, 2)


def _listens(settings: Settings) -> list[tuple[str, str, FieldPath]]:
    """Who listens, where, and where that is said."""
    proxies: list[tuple[str, str, FieldPath]] = [
        (target.name, target.routing.listen, ("targets", index, "routing", "listen"))
        for index, target in settings.numbered_hosts
    ]
    return [*proxies, ("web", settings.web.listen, ("web", "listen"))]
