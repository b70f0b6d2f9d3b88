"""The line of stages of a service's rollout: of the one that is under way, or else of the last one. Pure.

Each stage follows from facts of the service's document of the status, and from nothing else:

staged       `staging`: every model and image is there. A replica that was started had its files
started      `startedAt` of the replicas of the new version
first token  `readyAt` of those: the replica answered a real completion. On a cluster KServe calls its pod ready, and
             `tokenFault` says whether a token comes back
switched     those of them that requests are sent to
drained      no replica of another version is left
promoted     `promoted` names the new version, or all is in sync with git
rolled back  only once the new version has failed: as many replicas of the promoted one serve as were promoted

They stand in the order in which they happen. Where there is no room for both, old replicas are drained before new ones
start. Otherwise they are drained last: on a host after the promotion, on a cluster before it. At most one stage is
`active`; none is where the rollout stands still (the first one that is not done is `waiting` or `failed`, and its
detail says why) and where all is done. `at` is when a stage got into its state, None where that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from reconciler.model import HealthStatus, ReasonCode, Sync
from reconciler.model.crash_signs import BEFORE_READY, WHILE_SERVING

Document = dict[str, Any]
_CLUSTER = "cluster"
# Of a pod that no node has taken yet.
_SCHEDULING = "Scheduling"


class StageName(StrEnum):
    """A step of a rollout, as it is shown."""

    STAGED = "staged"
    STARTED = "started"
    FIRST_TOKEN = "first token"  # noqa: S105
    SWITCHED = "switched"
    DRAINED = "drained"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"


class StageState(StrEnum):
    """How it stands with a stage."""

    DONE = "done"
    ACTIVE = "active"
    WAITING = "waiting"  # its turn is to come, or something holds it up: then its detail says what
    FAILED = "failed"
    SKIPPED = "skipped"  # not needed, or not reached any more
    UNKNOWN = "unknown"


_BEGIN = (StageName.STAGED, StageName.STARTED, StageName.FIRST_TOKEN, StageName.SWITCHED)
_ON_HOST = (*_BEGIN, StageName.PROMOTED, StageName.DRAINED)
_ON_CLUSTER = (*_BEGIN, StageName.DRAINED, StageName.PROMOTED)
_OVER = (StageState.DONE, StageState.SKIPPED)
# What a replica fails of once it was started.
_RAN = frozenset(
    {
        ReasonCode.CRASHED,
        ReasonCode.CRASH_LOOP_BACKOFF,
        ReasonCode.ENGINE_DEAD,
        ReasonCode.HUNG,
        ReasonCode.MODEL_LOAD_FAILED,
        ReasonCode.NOT_SERVING,
        ReasonCode.OOM_KILLED,
        ReasonCode.PORT_TAKEN,
        ReasonCode.PROGRESS_DEADLINE_EXCEEDED,
    }
)
_NEVER_READY = frozenset({ReasonCode.MODEL_LOAD_FAILED, ReasonCode.NOT_SERVING, ReasonCode.PROGRESS_DEADLINE_EXCEEDED})
_ENDED = ("Failed", "Stopped", "Succeeded")
_NOT_STAGED = frozenset({ReasonCode.IMAGE_PULL_FAILED, ReasonCode.MODEL_NOT_FOUND, ReasonCode.STAGING_FAILED})


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `at` is a time of the document."""

    name: StageName
    state: StageState
    at: str | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in _OVER

    @property
    def document(self) -> Document:
        return {"name": self.name.value, "state": self.state.value, "at": self.at, "detail": self.detail}


def stages_document(service: Document, kind: str) -> list[Document]:
    """The stages of one service of a target of this kind, in their order; none where nothing is to roll out."""
    return [each.document for each in _stages(service, kind)]


def _stages(service: Document, kind: str) -> Sequence[Stage]:
    if service["health"]["status"] == HealthStatus.UNKNOWN and not service["replicas"]:
        return [Stage(name, StageState.UNKNOWN) for name in _names(kind)]
    if _is_leaving(service):
        return _leaving(service)
    rollout = _rollout(service, kind)
    if rollout is None:
        return ()
    if service["rejected"]:
        return list(_failed(rollout))
    return _settled(rollout) if rollout.old or not rollout.is_over else _finished(rollout)


def _names(kind: str) -> tuple[StageName, ...]:
    return _ON_CLUSTER if kind == _CLUSTER else _ON_HOST


# ---------------------------------------------------------------- nothing is to run


def _is_leaving(service: Document) -> bool:
    if service["kept"] or service["suspended"]:
        return False
    return not service["inGit"] or service["health"]["status"] == HealthStatus.SUSPENDED


def _leaving(service: Document) -> list[Stage]:
    there = service["replicas"]
    if not there:
        return []
    detail = _joined(_left(there), service["step"])
    return [Stage(StageName.DRAINED, StageState.ACTIVE, _earliest(there, "drainingAt"), detail)]


# ---------------------------------------------------------------- what rolls out


@dataclass(frozen=True, slots=True)
class _Rollout:
    """`new` are replicas of the version that is rolled out, `started`, `ready` and `switched` those of them that came
    so far, `old` those of others. `count` is how many there should be. `stays`: what is promoted keeps serving next to
    it. `is_over`: the version is promoted, with as many replicas as git asks for, or in sync with git without that."""

    service: Document
    kind: str
    digest: str
    count: int
    new: Sequence[Document]
    started: Sequence[Document]
    ready: Sequence[Document]
    switched: Sequence[Document]
    old: Sequence[Document]
    stays: bool
    is_over: bool

    @property
    def promoted_at(self) -> str | None:
        good = self.service["promoted"]
        return good["at"] if good and good["digest"] == self.digest else None


def _rollout(service: Document, kind: str) -> _Rollout | None:
    """None: git cannot be used, and nothing has proved itself."""
    canary, good = service["canary"], service["promoted"]
    digest = canary["digest"] if canary else service["digest"] or (good["digest"] if good else "")
    if not digest:
        return None
    count = max(1, canary["replicas"] if canary else service["desiredReplicas"])
    replicas = service["replicas"]
    new = [one for one in replicas if one["digest"] == digest and _is_of_it(one)]
    ready = [one for one in new if one["readyAt"]]
    return _Rollout(
        service,
        kind,
        digest,
        count,
        new,
        started=[one for one in new if one["startedAt"]],
        ready=ready,
        switched=[one for one in ready if one["routed"] == "Active"],
        old=[one for one in replicas if _is_other(one, digest) and not _is_gone(one, kind)],
        stays=bool(canary) and digest != service["digest"],
        is_over=_is_over(service, digest, count),
    )


def _is_over(service: Document, digest: str, count: int) -> bool:
    good = service["promoted"]
    if service["sync"] == Sync.SYNCED and not service["canary"]:
        return True
    if good is None or good["digest"] != digest or service["outdated"]:
        return False
    return good["replicas"] is None or good["replicas"] >= count


def _is_other(replica: Document, digest: str) -> bool:
    return replica["digest"] != digest or bool(replica["outdated"])


def _is_gone(replica: Document, kind: str) -> bool:
    """Of a pod that ended nothing is left but its name."""
    return kind == _CLUSTER and replica["phase"] in _ENDED


def _is_of_it(replica: Document) -> bool:
    is_on_its_way_out = replica["drainingAt"] or replica["stoppingAt"] or replica["phase"] in _ENDED
    return not (is_on_its_way_out or replica["outdated"])


def _finished(r: _Rollout) -> list[Stage]:
    """What is so of most services at most times."""
    times = {
        StageName.STARTED: _when_done(r, r.started, "startedAt"),
        StageName.FIRST_TOKEN: _when_done(r, r.ready, "readyAt"),
        StageName.PROMOTED: r.promoted_at,
    }
    drained = StageState.DONE if r.service["promoted"] else StageState.SKIPPED
    states = {StageName.DRAINED: drained}
    return [Stage(name, states.get(name, StageState.DONE), times.get(name)) for name in _names(r.kind)]


def _settled(r: _Rollout) -> list[Stage]:
    """The first stage that is not over goes on or is held up; the others are over, or to come."""
    found = [_stage(r, name) for name in _order(r)]
    first = next((number for number, one in enumerate(found) if not one.is_over), len(found))
    later = (one if one.is_over else replace(one, state=StageState.WAITING, at=None) for one in found[first + 1 :])
    return [*found[:first], *(_current(r, one) for one in found[first : first + 1]), *later]


def _order(r: _Rollout) -> Sequence[StageName]:
    names: list[StageName] = [name for name in _names(r.kind) if name is not StageName.DRAINED]
    if r.stays:
        return [name for name in names if name is not StageName.PROMOTED]
    before = _drained_before(r)
    place = names.index(before) if before else len(names)
    return [*names[:place], StageName.DRAINED, *names[place:]]


def _drained_before(r: _Rollout) -> StageName | None:
    """The stage that old replicas are gone before; None: they go at last."""
    if r.is_over:
        return None
    at_last = StageName.PROMOTED if r.kind == _CLUSTER else None
    if r.old:
        return _room_is_for(r) if _makes_room(r) else at_last
    has_changed_over = r.kind == _CLUSTER and len(r.switched) >= r.count
    return at_last if has_changed_over or r.service["promoted"] is None else _room_is_for(r)


def _room_is_for(r: _Rollout) -> StageName:
    """On a host files are there before anything is drained; on a cluster a pod fetches them."""
    return StageName.STAGED if r.kind == _CLUSTER else StageName.STARTED


def _makes_room(r: _Rollout) -> bool:
    """Once the last old replica drains, nobody says any more by which strategy that is."""
    all_drain = not r.new and all(one["drainingAt"] for one in r.old)
    return len(r.started) < r.count and (all_drain or _makes_room_first(r.service["strategy"]))


def _makes_room_first(strategy: str) -> bool:
    return strategy.startswith(("stop-first:", "Recreate")) or "maxSurge 0" in strategy


# ---------------------------------------------------------------- each stage


def _stage(r: _Rollout, name: StageName) -> Stage:
    match name:
        case StageName.STAGED:
            return _staged(r)
        case StageName.STARTED:
            return _counted(r, name, r.started, "startedAt", "createdAt")
        case StageName.FIRST_TOKEN:
            return _first_token(r)
        case StageName.SWITCHED:
            return _counted(r, name, r.switched, "", "")
        case StageName.DRAINED:
            return _drained(r)
        case _:
            return _promoted(r)


def _staged(r: _Rollout) -> Stage:
    pending = [one for one in r.service["staging"] if one["state"] != "Staged"]
    if r.is_over or r.started or (r.kind != _CLUSTER and not pending):
        return Stage(StageName.STAGED, StageState.DONE)
    detail = "; ".join(map(_bytes, pending)) if pending else r.service["phase"].lower()
    return Stage(StageName.STAGED, StageState.ACTIVE, _earliest(r.new, "createdAt"), detail)


def _bytes(staging: Document) -> str:
    if staging["message"]:
        return f"{staging['uri']}: {staging['message']}"
    whole = f" of {staging['totalBytes']}" if staging["totalBytes"] else ""
    return f"{staging['uri']}: {staging['doneBytes']}{whole} bytes"


def _first_token(r: _Rollout) -> Stage:
    found = _counted(r, StageName.FIRST_TOKEN, r.ready, "readyAt", "startedAt")
    if r.kind != _CLUSTER or r.is_over or not found.is_over:
        return found
    why = r.service["tokenFault"]
    if why is None:
        return replace(found, state=StageState.SKIPPED, detail="its pods are ready; no token is asked for")
    return replace(found, state=StageState.ACTIVE, detail=why) if why else found


def _counted(r: _Rollout, name: StageName, there: Sequence[Document], key: str, since: str) -> Stage:
    """Done once as many replicas are as far. A promoted version has been; what runs of it now may be younger."""
    if r.is_over or len(there) >= r.count:
        return Stage(name, StageState.DONE, _when_done(r, there, key))
    detail = f"{len(there)} of {r.count}" if there else ""
    missing = [one for one in r.new if one not in there]
    return Stage(name, StageState.ACTIVE, _earliest(missing, since), detail)


def _when_done(r: _Rollout, there: Sequence[Document], key: str) -> str | None:
    times = [one[key] for one in there if key and one[key]]
    if not times or len(times) < r.count:
        return None
    done, promoted = max(times), r.promoted_at
    # A replica that was started again since then says nothing of the rollout.
    return None if r.is_over and promoted and done > promoted else str(done)


def _drained(r: _Rollout) -> Stage:
    if not r.old:
        first = r.service["promoted"] is None
        return Stage(StageName.DRAINED, StageState.SKIPPED if first else StageState.DONE)
    return Stage(StageName.DRAINED, StageState.ACTIVE, _earliest(r.old, "drainingAt"), _left(r.old))


def _left(old: Sequence[Document]) -> str:
    """How many are left, and the requests that still run there."""
    running = [one["inFlight"] for one in old if one["drainingAt"] and one["inFlight"]]
    requests = f"{sum(running)} request{'' if sum(running) == 1 else 's'} running" if running else ""
    return _joined(f"{len(old)} left" if len(old) > 1 else "", requests)


def _promoted(r: _Rollout) -> Stage:
    if r.is_over:
        return Stage(StageName.PROMOTED, StageState.DONE, r.promoted_at)
    last = max((one["readyAt"] for one in r.switched), default=None)
    canary = r.service["canary"]
    detail = f"gets {canary['percent']}% of requests until git gives it all" if canary else ""
    return Stage(StageName.PROMOTED, StageState.ACTIVE, last, detail)


# ---------------------------------------------------------------- where it stands


def _current(r: _Rollout, stage: Stage) -> Stage:
    held = _held(r, stage)
    if held is None:
        return replace(stage, detail=_joined(stage.detail, r.service["step"]))
    return replace(stage, state=StageState.WAITING, at=None, detail=_joined(stage.detail, held))


def _held(r: _Rollout, stage: Stage) -> str | None:
    """Why it does not go on by itself now; None: it does."""
    service = r.service
    if service["suspended"]:
        return "suspended"
    for reason in (*service["problems"], *([service["kept"]] if service["kept"] else []), *service["blocked"]):
        return str(reason["message"])
    if _awaits_room(service) or _awaits_retry(service):
        return str(service["step"])
    if r.kind == _CLUSTER and stage.name is StageName.STAGED and service["phase"] == _SCHEDULING:
        return str(service["step"])
    if stage.name is StageName.PROMOTED and service["canary"]:
        return ""
    return None


def _awaits_room(service: Document) -> bool:
    """A way on which nothing is done but wait says so in both places."""
    step = service["step"]
    return bool(step) and (step == service["strategy"] or step.startswith("waiting for "))


def _awaits_retry(service: Document) -> bool:
    return service["lastFailure"] is not None and service["step"].endswith("tried again with backoff")


# ---------------------------------------------------------------- it failed


def _failed(r: _Rollout) -> Iterator[Stage]:
    """Up to the stage that failed it is known what was done, or said that it is not; then comes the way back."""
    service, rejected = r.service, r.service["rejected"]
    names = _names(r.kind)
    known, failed = _reached(rejected, names)
    for number, name in enumerate(names):
        if name is failed:
            yield Stage(name, StageState.FAILED, rejected["at"], rejected["reason"])
        elif name is StageName.DRAINED and names.index(failed) > names.index(StageName.STARTED):
            # It may have made room, or not. Before anything was promoted there was nothing to drain.
            yield Stage(name, StageState.SKIPPED if service["promoted"] is None else StageState.UNKNOWN)
        elif number > names.index(failed):
            yield Stage(name, StageState.SKIPPED)
        else:
            yield Stage(name, StageState.DONE if number < known else StageState.UNKNOWN)
    yield from _rolled_back(r)


def _reached(rejected: Document, names: tuple[StageName, ...]) -> tuple[int, StageName]:
    """How many stages were done for certain, and which one failed."""
    code, said = rejected["code"], rejected["reason"]
    if code in _NOT_STAGED:
        return 0, StageName.STAGED
    if code not in _RAN:
        return 1, StageName.STARTED
    if code in _NEVER_READY or BEFORE_READY in said:
        return 2, StageName.FIRST_TOKEN
    return (names.index(StageName.SWITCHED) + 1 if WHILE_SERVING in said else 2), StageName.PROMOTED


def _rolled_back(r: _Rollout) -> Iterator[Stage]:
    good = r.service["promoted"]
    if good is None or good["digest"] == r.digest:
        return
    back = [
        one for one in r.service["replicas"] if one["digest"] == good["digest"] and one["readyAt"] and _is_of_it(one)
    ]
    wanted = good["replicas"] or 1
    serves = f"{good['digest'][:8]} serves"
    if len(back) >= wanted:
        yield Stage(StageName.ROLLED_BACK, StageState.DONE, detail=serves)
        return
    count = f"{len(back)} of {wanted}" if wanted > 1 else ""
    found = Stage(StageName.ROLLED_BACK, StageState.ACTIVE, detail=count)
    yield _current(r, found)


# ---------------------------------------------------------------- texts


def _earliest(replicas: Sequence[Document], key: str) -> str | None:
    return min((one[key] for one in replicas if key and one[key]), default=None)


def _joined(*texts: str) -> str:
    """What one of them says is not said again by another."""
    told = [text for text in dict.fromkeys(texts) if text and not any(text in one for one in texts if one != text)]
    return "; ".join(told)


def stages_line(stages: Sequence[Document], *, details: bool = True) -> str:
    """`staged (done) → started (active: 1 of 2) → first token → …`; a stage that is to come has its name alone."""
    return " → ".join(_word(one, one["detail"] if details else "") for one in stages)


def _word(stage: Document, detail: str) -> str:
    state = stage["state"]
    if state == StageState.WAITING and not detail:
        return str(stage["name"])
    return f"{stage['name']} ({state}: {detail})" if detail and state not in _OVER else f"{stage['name']} ({state})"


def is_under_way(stages: Sequence[Document]) -> bool:
    """Does it go on by itself?"""
    return any(one["state"] == StageState.ACTIVE for one in stages)
