"""A host that exists only in memory, so that Hypothesis can try thousands of histories of the pure planner.

It does what actions say, as idempotently as the real target, lets time pass, and misbehaves on request: engines that
crash or never get ready, requests that never end, a daemon that dies between two actions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reconciler.errors import Retryable, Terminal, Unstartable
from reconciler.host.execute import execute
from reconciler.host.health import Patience, ReplicaPhase, phase_of
from reconciler.host.plan import make_plan
from reconciler.host.rollout import failures
from reconciler.host.rollout.failures import Failures
from reconciler.model import (
    GPU,
    MIG,
    NO_ORIGIN,
    Action,
    AskPreflight,
    Canary,
    Capacity,
    DeletionRules,
    Desired,
    DesiredState,
    Drain,
    EffectiveSpec,
    EnsureProxy,
    Fetch,
    Fit,
    ForeignProcess,
    Forget,
    Gpu,
    GpuUse,
    GuardLimits,
    Holds,
    MarkReady,
    Mount,
    NoteCrash,
    NoteFailure,
    Observed,
    Origin,
    Owned,
    Plan,
    Preflight,
    Promote,
    Promoted,
    Quarantine,
    Reason,
    ReasonCode,
    Reattach,
    Reject,
    Relabel,
    Remove,
    Replica,
    ReplicaId,
    Resources,
    Restart,
    Routed,
    ServiceId,
    ServiceRoute,
    SetRoutes,
    Silence,
    Stage,
    StageImage,
    Staging,
    Start,
    Stop,
    Strategy,
    TakeOwnership,
    Undrain,
    Unstage,
    texts,
)
from reconciler.model.model_sources import fetched
from tests.support.arguments import written

PATIENCE = Patience(min_ready=3, ready_timeout=30, drain_timeout=10, stop_grace=2)
UNGUARDED = DeletionRules(limits=GuardLimits(None, None, None, everything=True))
GIB = 1 << 30


def spec(
    name: str,
    gpus: int = 0,
    memory: int = 1,
    args: tuple[str, ...] = (),
    uri: str | None = None,
    share: int = 0,
    mig: str = "",
) -> EffectiveSpec:
    """`share` are thousandths of its one GPU, `mig` is the profile of the one MIG device that it wants."""
    other = ((f"{MIG}{mig}", 1),) if mig else ()
    resources = Resources(gpus, cpu_millis=100, memory_bytes=memory * GIB, other=other, gpu_share_millis=share)
    return EffectiveSpec(name, (), written(*args), mounts=(Mount(uri),) if uri else (), resources=resources)


def share_of(asked: EffectiveSpec) -> int:
    """The percentage of a GPU's memory that its engine takes."""
    flag = "--gpu-memory-utilization=0."
    share = asked.resources.gpu_share_millis // 10 or 92
    return next((int(word.removeprefix(flag)) for word in texts(asked.args) if word.startswith(flag)), share)


def wanted(
    name: str,
    version: str,
    replicas: int = 1,
    gpus: int = 0,
    memory: int = 1,
    strategy: Strategy | None = None,
    canary: int | None = None,
    blocked: tuple[Reason, ...] = (),
    uri: str | None = None,
    share: int = 0,
    mig: str = "",
) -> Desired:
    """A service whose digest is `<name>-<version>`; the version's first letter says how its engine behaves."""
    return Desired(
        id=ServiceId("default", name),
        origin=Origin(f"{name}.yaml", 1),
        spec=spec(f"{name}:{version}", gpus, memory, uri=uri, share=share, mig=mig),
        digest=f"{version}-{name}",
        replicas=replicas,
        strategy=strategy,
        canary_percent=canary,
        blocked=blocked,
    )


def beside(service: Desired, version: str, percent: int, replicas: int = 1, memory: int = 1) -> Desired:
    """The service with a second version next to it."""
    name = service.id.name
    other = Canary(spec(f"{name}:{version}", memory=memory), f"{version}-{name}-beside", percent, replicas)
    return replace(service, canary=other)


def state(*services: Desired, **more: object) -> DesiredState:
    return DesiredState("host", "a" * 40, tuple(services), **more)  # type: ignore[arg-type]


@dataclass
class Host:
    """Versions: `good…` serves, `reject…` fails preflight, `large…` does not fit, `crash…` dies while starting, `late…`
    dies 1 s after it was ready, `hang…` is silent from then on, `never…` is never ready. No host could start
    `nostart…`; this one cannot start `nohost…`, and is to blame when `starve…` dies while starting.

    `broken` are digests whose engines die whenever they start, `refused` those whose start fails for a reason of the
    host. Actions of the kinds in `failing` always fail; `tried` says when.
    A model at `s3://flaky/…` comes at the third try, one at `s3://gone/…` never; all others after 2 s. Images in
    `unpulled` have to be pulled first; that takes 2 s, and of a version `…gone` the registry has none.
    """

    gpus: int = 0
    mig: tuple[str, ...] = ()  # the profiles of its MIG devices
    memory: int = 64
    now: float = 1000.0
    start_seconds: float = 2.0
    stagger: float = 0.0  # how much longer a replica takes than the one before
    busy_seconds: float = 1.0  # how long a draining replica still has requests
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict)
    owned: dict[ServiceId, Owned] = field(default_factory=dict)
    routes: dict[ServiceId, ServiceRoute] = field(default_factory=dict)
    quarantines: dict[tuple[ServiceId, str], Quarantine] = field(default_factory=dict)
    preflights: dict[str, Preflight] = field(default_factory=dict)
    asking: dict[str, float] = field(default_factory=dict)
    blockers: dict[str, tuple[Reason, ...]] = field(default_factory=dict)
    asked: dict[str, EffectiveSpec] = field(default_factory=dict)
    staging: dict[str, Staging] = field(default_factory=dict)
    fetching: dict[str, tuple[str, float]] = field(default_factory=dict)
    unpulled: dict[str, Staging | None] = field(default_factory=dict)
    proxy: bool = False
    ports: int = 100
    release_seconds: float = 0.0  # how long the memory of GPUs stays away after the end of a process
    strangers: dict[str, int] = field(default_factory=dict)  # GPUs, and the percentage that others hold of them
    log: list[Action] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    failing: set[type] = field(default_factory=set)
    tried: list[float] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)
    careful: bool = True  # nothing starts on a shared GPU while others there start or end, as long as nobody dies

    # ------------------------------------------------------------ observe

    def observe(self) -> Observed:
        for digest in [d for d, done in self.asking.items() if done <= self.now]:
            del self.asking[digest]
            bad = (
                (Reason(ReasonCode.INVALID_ARGUMENT, "unrecognized argument --x", NO_ORIGIN),)
                if digest.startswith("reject")
                else ()
            )
            large = Fit("too large", refusal="needs more than there is") if digest.startswith("large") else None
            self.preflights[digest] = Preflight(parsed=self._parsed(digest), reasons=bad, fit=large)
        self._fetch()
        self._pull()
        return Observed(
            target="host",
            at=self.now,
            replicas=tuple(self._look(r) for r in self.replicas.values()),
            capacity=Capacity(
                cpu_millis=100_000_000,
                memory_bytes=self.memory * GIB,
                gpus=self.devices(),
                ports=tuple(range(20000, 20000 + self.ports)),
                gpu_use={gpu.uuid: self._use(gpu.uuid) for gpu in self.devices()},
            ),
            owned=dict(self.owned),
            routes=dict(self.routes),
            proxy_ready=self.proxy,
            preflights=dict(self.preflights),
            preflighting=frozenset(self.asking),
            blockers=dict(self.blockers),
            staging=dict(self.staging),
            images=dict(self.unpulled),
        )

    def devices(self) -> tuple[Gpu, ...]:
        parts = (Gpu(f"MIG-{n}", profile=profile, parent="GPU-9") for n, profile in enumerate(self.mig))
        return (*(Gpu(f"GPU-{n}") for n in range(self.gpus)), *parts)

    def _parsed(self, digest: str) -> str:
        """Every digest is understood as something else, with the arguments that matter here."""
        asked = self.asked.get(digest)
        if asked is None or not asked.args:
            return digest
        return json.dumps({"digest": digest, "gpu_memory_utilization": share_of(asked) / 100})

    def _fetch(self) -> None:
        for key, (uri, _) in [(k, v) for k, v in self.fetching.items() if v[1] <= self.now]:
            del self.fetching[key]
            before = self.staging[key]
            # The program that fetches names what it means, which is often all of it.
            why = Reason(ReasonCode.SOURCE_UNREACHABLE, f"{uri}: it is down", NO_ORIGIN)
            failed = replace(before, failures=before.failures + 1, at=self.now, reason=why)
            if uri.startswith("s3://gone/"):
                self.staging[key] = replace(failed, fetch=Fetch.REFUSED)
            elif uri.startswith("s3://flaky/") and before.failures < 2:
                self.staging[key] = replace(failed, fetch=Fetch.FAILED)
            else:
                self.staging[key] = Staging(Fetch.STAGED, 100, 100)

    def _use(self, uuid: str) -> GpuUse:
        others = self.strangers.get(uuid, 0)
        held = [r.spec.resources.gpu_share_millis or 1000 for r in self.replicas.values() if uuid in r.lease.gpus]
        strangers = (ForeignProcess(1, "python3", others * 10),) if others else ()
        return GpuUse(1000, max(0, 1000 - others * 10 - sum(held)), strangers)

    def _pull(self) -> None:
        for image, known in list(self.unpulled.items()):
            if known is None or known.fetch is not Fetch.RUNNING or self.now < known.at + 2:
                continue
            if image.endswith("gone"):
                refused = Reason(ReasonCode.IMAGE_PULL_FAILED, "manifest unknown", NO_ORIGIN)
                self.unpulled[image] = Staging(Fetch.REFUSED, failures=1, at=self.now, reason=refused)
            else:
                del self.unpulled[image]

    def _look(self, r: Replica) -> Replica:
        age = self.now - r.created_at
        version = r.digest.split("-")[0]
        late = self.stagger * (int(r.id.serial.rsplit("-", 1)[1]) % 3)
        ready = age >= self.start_seconds + late and not version.startswith(("crash", "never"))
        alive = r.alive and r.spawned
        if (version.startswith(("crash", "starve")) or r.digest in self.broken) and age >= 1:
            alive = False
        if version.startswith("late") and r.ready_at is not None and self.now - r.ready_at >= 1:
            alive = False
        if r.stopping_at is not None and self.now - r.stopping_at >= 0.5:
            alive = False
        quiet = r.draining_at is not None and self.now - r.draining_at >= self.busy_seconds
        routed = self._routed(r)
        counted = quiet and routed is not Routed.ACTIVE
        if version.startswith("hang") and r.ready_at is not None and self.now - r.ready_at >= 1:
            silence = Silence.HUNG if self.now - r.ready_at >= 2 else Silence.SILENT
            r = replace(r, silence=silence)
        looked = replace(
            r,
            alive=alive,
            exit_code=None if alive else 1,
            leftovers=0,
            releasing=not alive and bool(r.lease.gpus) and self.now - (r.stopping_at or 0) < 0.5 + self.release_seconds,
            ready_now=alive and ready and r.restarted is not Restart.ENDING,
            routed=routed,
            in_flight=0 if quiet else 1,
            quiet_samples=2 if counted else 0,
            last_words=("No space left on device",) if version.startswith("starve") else r.last_words,
        )
        self.replicas[r.id] = replace(r, alive=alive)
        return looked

    def _routed(self, r: Replica) -> Routed:
        if not self.proxy:
            return Routed.UNKNOWN
        route = self.routes.get(r.service)
        for endpoint in (*route.stable, *route.canary) if route else ():
            if endpoint.replica == r.id:
                return Routed.DRAINING if endpoint.draining else Routed.ACTIVE
        return Routed.ABSENT

    def restart(self) -> None:
        """The host restarts: no process outlives that."""
        for key, replica in self.replicas.items():
            self.replicas[key] = replace(replica, alive=False, rebooted=True)
        self.asking.clear()

    def lose_files(self) -> None:
        """The disk is cleared: all downloads are gone."""
        self.fetching.clear()
        self.staging = {
            key: replace(
                known,
                fetch=Fetch.FAILED,
                at=self.now,
                reason=Reason(ReasonCode.STAGED_FILES_DELETED, "not there any more", NO_ORIGIN),
            )
            for key, known in self.staging.items()
        }

    def check_successors(self, desired: DesiredState, plan: Plan) -> None:
        """Nothing that serves goes for a digest that lacks files or memory of GPUs, unless enough of that serves."""
        for drain in (action for action in plan.actions if isinstance(action, Drain)):
            _, superseded, start = drain.reason.partition("superseded by ")
            if superseded:
                found = [one for one in self._successors(desired, drain.replica.service) if one[0].startswith(start)]
                assert found, f"superseded by what? {drain.reason}"
                assert any(self._may_succeed(drain.replica.service, *one) for one in found), "its files are not there"
            for one in desired.services:
                if superseded and one.id == drain.replica.service and one.spec and one.digest.startswith(start):
                    served = self.serving(one.id.name)
                    if sum(r.digest == one.digest for r in served) < one.replicas and len(served) <= one.replicas:
                        self._check_gpus(drain.replica, one.spec)

    def check_promoted_last(self, desired: DesiredState, plan: Plan) -> None:
        """No promoted replica is superseded while one that was never promoted, and is not wanted either, stays."""
        going = {action.replica for action in plan.actions if isinstance(action, Drain | Stop)}
        for drain in (action for action in plan.actions if isinstance(action, Drain)):
            service = drain.replica.service
            if "superseded by " not in drain.reason or not self._is_promoted(self.replicas[drain.replica]):
                continue
            wanted_here = {digest for digest, _, _ in self._successors(desired, service)}
            staying = [r for r in self.serving(service.name) if r.id not in going]
            left = [r.id for r in staying if not self._is_promoted(r) and r.digest not in wanted_here]
            assert not left, f"{drain.replica} is promoted and goes, {left} stay"

    def _is_promoted(self, r: Replica) -> bool:
        owned = self.owned.get(r.service)
        return owned is not None and owned.promoted is not None and owned.promoted.digest == r.digest

    def _successors(self, desired: DesiredState, service: ServiceId) -> list[tuple[str, EffectiveSpec, int]]:
        """What may come after a replica: git's digest, the second one beside it, or the last good one again."""
        found: list[tuple[str, EffectiveSpec, int]] = []
        for one in desired.services:
            if one.id == service and one.spec:
                found.append((one.digest, one.spec, one.replicas))
                found += [(one.canary.digest, one.canary.spec, one.canary.replicas)] if one.canary else []
        promoted = self.owned[service].promoted if service in self.owned else None
        return [*found, (promoted.digest, promoted.spec, promoted.replicas)] if promoted else found

    def _may_succeed(self, service: ServiceId, digest: str, asked: EffectiveSpec, count: int) -> bool:
        if all(self._has(key) for key, _ in fetched(service, asked)):
            return True
        return sum(replica.digest == digest for replica in self.serving(service.name)) >= count

    def _check_gpus(self, leaving: ReplicaId, successor: EffectiveSpec) -> None:
        """Will there be GPUs with memory enough, once all replicas are gone that go?"""
        staying = [r for r in self.replicas.values() if r.draining_at is None and r.stopping_at is None]
        leased = {
            uuid
            for r in staying
            if r.service != leaving.service and not r.spec.resources.gpu_share_millis
            for uuid in r.lease.gpus
        }
        free = [f"GPU-{n}" for n in range(self.gpus) if f"GPU-{n}" not in leased]
        roomy = [uuid for uuid in free if 100 - self.strangers.get(uuid, 0) >= share_of(successor)]
        assert len(roomy) >= successor.resources.gpus, "made room for what has no memory on its GPUs"

    def _has(self, key: str) -> bool:
        return key in self.staging and self.staging[key].fetch is Fetch.STAGED

    # ------------------------------------------------------------ perform

    def perform(self, action: Action) -> None:
        self.log.append(action)
        match action:
            case EnsureProxy():
                self.proxy = True
            case Stage(key=key, mount=mount):
                assert self.staging.get(key, Staging(Fetch.FAILED)).fetch is not Fetch.STAGED, "staged twice"
                failures = self.staging[key].failures if key in self.staging else 0
                self.staging[key] = Staging(Fetch.RUNNING, 50, 100, failures)
                self.fetching.setdefault(key, (mount.uri, self.now + 2))
            case StageImage(image=image):
                known = self.unpulled[image]
                assert known is None or known.fetch is not Fetch.RUNNING, "pulled twice"
                self.unpulled[image] = Staging(Fetch.RUNNING, 50, at=self.now)
            case Unstage(key=key):
                used = {k for r in self.replicas.values() for k, _ in fetched(r.service, r.spec)}
                assert key not in used, "deleted the files of a replica"
                self.staging.pop(key, None)
                self.fetching.pop(key, None)
            case AskPreflight(digest=digest, service=service, spec=asked):
                self._assert_staged(service, asked)
                self.asked[digest] = asked
                self.asking.setdefault(digest, self.now + 1)
            case TakeOwnership(service=service, origin=origin):
                self.owned.setdefault(service, Owned(service, origin))
            case Start():
                self._start(action)
            case MarkReady(replica=key):
                self._change(key, ready_at=self.now, again="")
            case Reattach(replica=key, serves=serves, reason=reason):
                self._change(key, restarted=None, run=f"{key} {self.now}")
                if not serves:
                    self._change(key, ready_at=None, created_at=self.now, again=reason)
            case Relabel(replica=key, digest=digest, spec=new):
                self._change(key, digest=digest, spec=new)
            case Drain(replica=key):
                self._change(key, draining_at=self.now)
            case Undrain(replica=key):
                self._change(key, draining_at=None)
            case Stop(replica=key):
                self._assert_rest(action)
                self._change(key, stopping_at=self.replicas[key].stopping_at or self.now)
            case Remove(replica=key):
                assert not self.replicas[key].alive, "removed a replica that runs"
                del self.replicas[key]
            case SetRoutes(routes=routes):
                self.routes = {route.service: route for route in routes}
            case NoteFailure():
                pass  # What is kept of it is its result.
            case Promote(service=service, promoted=promoted):
                self._promote(service, promoted)
            case NoteCrash(replica=key, run=run, at=at, conflict=conflict):
                owned = self.owned[key.service]
                assert run not in owned.counted, "counted a death twice"
                owned = replace(owned, counted=(*owned.counted, run))
                kind = "conflicts" if conflict else "crashes"
                self.owned[key.service] = replace(owned, **{kind: (*{*getattr(owned, kind), at},)})
            case Reject(quarantine=quarantine):
                self.quarantines[(quarantine.service, quarantine.digest)] = quarantine
            case Forget(service=service):
                del self.owned[service]

    def _start(self, action: Start) -> None:
        found = self.replicas.get(action.replica)
        if found and found.spawned:
            return
        self._assert_staged(action.replica.service, action.spec)
        assert (action.replica.service, action.digest) not in self.quarantines, "started a quarantined digest"
        self._assert_free(action)
        ports = {r.lease.port for r in self.replicas.values() if r.id != action.replica}
        assert action.lease.port not in ports, "leased a port twice"
        self.replicas[action.replica] = Replica(
            id=action.replica,
            digest=action.digest,
            spec=action.spec,
            origin=action.origin,
            lease=action.lease,
            created_at=self.now,
            parsed=action.parsed,
            run=f"{action.replica} {self.now}",
        )
        used = sum(r.spec.resources.memory_bytes for r in self.replicas.values())
        assert found or used <= self.memory * GIB, "gave away more memory than there is"

    def _assert_free(self, action: Start) -> None:
        """Its devices are of the kind that it asked for, and no other replica has what it gets of them."""
        kinds = {gpu.uuid: gpu.kind for gpu in self.devices()}
        asked = [GPU] * action.spec.resources.gpus + [kind for kind, n in action.spec.resources.other for _ in range(n)]
        got = [str(kinds.get(uuid)) for uuid in action.lease.gpus]
        assert action.replica in self.replicas or sorted(got) == sorted(asked), "leased another kind of device"
        for uuid in action.lease.gpus:
            others = [r for r in self.replicas.values() if r.id != action.replica and uuid in r.lease.gpus]
            shares = [r.spec.resources.gpu_share_millis or 1000 for r in others]
            assert sum(shares) + (action.spec.resources.gpu_share_millis or 1000) <= 1000, "leased a GPU twice"
            if self.careful and action.replica not in self.replicas:
                # Who begins to drain in this very pass stays until the newcomer has started.
                resting = [
                    r.ready_at and not r.stopping_at and r.draining_at in (None, self.now) for r in others if r.alive
                ]
                assert all(resting), "no rest"
            room = 100 - self.strangers.get(uuid, 0) - sum(shares) // 10
            assert action.replica in self.replicas or room >= share_of(action.spec), "started without memory"

    def _assert_rest(self, action: Stop) -> None:
        """No memory is freed while another engine measures the same GPU."""
        mine = self.replicas[action.replica]
        if not self.careful or not self._look(mine).alive or not mine.ready_at:
            return
        others = [r for r in self.replicas.values() if r.id != mine.id and set(r.lease.gpus) & set(mine.lease.gpus)]
        assert all(phase_of(self._look(r), self.now, PATIENCE) is not ReplicaPhase.STARTING for r in others), "no rest"

    def _assert_staged(self, service: ServiceId, asked: EffectiveSpec) -> None:
        for key, _ in fetched(service, asked):
            assert self.staging.get(key, Staging(Fetch.FAILED)).fetch is Fetch.STAGED, "its files are not there"
        assert asked.image not in self.unpulled, "its image is not there"

    def _promote(self, service: ServiceId, promoted: Promoted) -> None:
        owned = self.owned[service]
        if owned.promoted is None or owned.promoted.digest != promoted.digest:
            owned = replace(owned, crashes=(), conflicts=())
        self.owned[service] = replace(owned, promoted=promoted)
        if not promoted.replicas:
            return
        # As the loop does: git has moved on, what failed before may be tried again.
        for key in [key for key in self.quarantines if key[0] == service]:
            del self.quarantines[key]

    def _change(self, key: ReplicaId, **fields: object) -> None:
        self.replicas[key] = replace(self.replicas[key], **fields)  # type: ignore[arg-type]

    # ------------------------------------------------------------ passes

    def holds(self, desired: DesiredState, *suspended: ServiceId) -> Holds:
        """As the loop puts them together."""
        return Holds(
            drain=desired.drain,
            unschedulable=desired.unschedulable,
            suspended=frozenset(map(str, suspended)),
            quarantines=self.quarantines,
            deletions=UNGUARDED,
        )

    def step(self, desired: DesiredState, die_after: int | None = None, rules: DeletionRules = UNGUARDED) -> Plan:
        """One pass. `die_after` cuts its execution after so many actions, as `kill -9` would."""
        observed, holds = self.observe(), replace(self.holds(desired), deletions=rules)
        plan = make_plan(desired, observed, holds, PATIENCE, tuple(self.failures.values()))
        self.check_successors(desired, plan)
        self.check_promoted_last(desired, plan)
        if die_after is not None:
            for action in plan.actions[:die_after]:
                if self._error_of(action) is None:
                    self.perform(action)
            return plan
        self._execute(desired, observed, plan, self._perform_or_fail)
        return plan

    def _perform_or_fail(self, action: Action) -> None:
        error = self._error_of(action)
        if error is None or isinstance(action, Reject):
            # The loop keeps a quarantine in mind that no disk takes.
            self.perform(action)
        if error:
            raise error

    def _error_of(self, action: Action) -> Exception | None:
        digest = action.digest if isinstance(action, Start) else ""
        if digest.startswith("nostart"):
            return Unstartable("its environment is too large")
        if digest.startswith("nohost") or digest in self.refused:
            return Terminal("there is no user of that name")
        if type(action) not in self.failing:
            return None
        self.tried.append(self.now)
        return Retryable("it fails")

    def _execute(
        self, desired: DesiredState, observed: Observed, plan: Plan, perform: Callable[[Action], None]
    ) -> None:
        """As the loop does: what failed is remembered, and waits until it is due."""
        broken: list[AssertionError] = []

        def careful(action: Action) -> None:
            try:
                perform(action)
            except AssertionError as error:
                # The executor takes every error for an action that failed.
                broken.append(error)
                raise

        results = execute(plan, careful, waiting=failures.waiting(self.failures, plan))
        if broken:
            raise broken[0]
        self.failures = failures.still_wanted(failures.count(self.failures, plan, results), desired, observed)

    def stumble(self, desired: DesiredState, luck: random.Random) -> Plan:
        """One pass in which actions fail, files vanish, engines hang, somebody restarts what runs, the daemon dies
        between a record and its process, and the proxy goes away."""
        self.proxy = self.proxy and luck.random() < 0.9
        if luck.random() < 0.1:
            self.restart_processes(luck.choice("abc"), luck.choice(list(Restart)))
        if luck.random() < 0.05:
            self.lose_files()
        if luck.random() < 0.05:
            self.hang(luck.choice("abc"))
        observed = self.observe()
        plan = make_plan(desired, observed, self.holds(desired), PATIENCE, tuple(self.failures.values()))
        self.check_successors(desired, plan)
        self.check_promoted_last(desired, plan)

        def perform(action: Action) -> None:
            if luck.random() < 0.8:
                self.perform(action)
                return
            if isinstance(action, Start) and action.replica not in self.replicas:
                self.perform(action)
                self._change(action.replica, spawned=False, alive=False)
            raise Retryable("bad luck")

        self._execute(desired, observed, plan, perform)
        return plan

    def converge(self, desired: DesiredState, passes: int = 400, tick: float = 0.5) -> Plan:
        """Passes until a plan is empty and time alone changes nothing, or not soon what failed. Fails if that never
        comes."""
        for number in range(passes):
            plan = self.step(desired)
            # Several services that fail are each tried every 30 s, and hardly ever all at once.
            quiet = 10 if number < passes / 2 else 3
            later = plan.look_again_at is None or (self.failures and plan.look_again_at > self.now + quiet)
            if not plan.actions and later:
                return plan
            self.now += tick
        last = {str(k): (v.step, v.health, v.strategy) for k, v in plan.verdicts.items()}
        raise AssertionError(f"did not converge: {plan.actions} {last}")

    def hang(self, name: str, silence: Silence = Silence.HUNG, only: int | None = None) -> None:
        """The engines of a service do nothing any more; `only` so many of them."""
        for key in sorted(key for key, r in self.replicas.items() if key.service.name == name and r.ready_at)[:only]:
            self._change(key, silence=silence, silent_why="its server has not responded for 60 s")

    def restart_processes(self, name: str, how: Restart) -> None:
        """The processes of a service are others now, that have their models to load."""
        for key in [key for key, r in self.replicas.items() if key.service.name == name and r.alive and r.spawned]:
            self._change(key, restarted=how, created_at=self.now)

    def serving(self, name: str) -> list[Replica]:
        looked = [self._look(r) for r in self.replicas.values() if r.service.name == name]
        return [r for r in looked if r.alive and r.ready_at and r.draining_at is None and r.routed is Routed.ACTIVE]
