"""Settings by which a vLLM pod ends without cutting requests, added where git does not set them. Pure.

A pod that ends is withdrawn from its Service while it is told to stop, not before: preStop waits that out. SIGTERM
alone aborts what runs; with `--shutdown-timeout` vLLM lets it finish, as long as one API server takes requests. All of
that has to fit into the pod's terminationGracePeriodSeconds. They go into the InferenceService: KServe appends
`model.args` to its runtime's, lays `model.lifecycle` over its container, and takes the grace period from the predictor
alone, so that the runtime stays as its user wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reconciler.cluster.rollout.additions import NO_ADDITIONS, Additions, field_path, server_place
from reconciler.engines.arguments import find, flag_value, speaks_grpc, takes_grpc
from reconciler.kserve import names
from reconciler.model import Argument, DesiredObject, Origin, Reason, ReasonCode

SWITCH = "reconciler/drain"
"""Our annotation that keeps these settings out of one service: `"false"`."""
FLAG = "--shutdown-timeout"
_SINCE = (0, 18)
"""The oldest vLLM whose releases all know the flag."""
_RELEASE = re.compile(r"v?(\d+)\.(\d+)(\.\d+)*(?![\w.])", re.ASCII)
_SLEEP = re.compile(r"\s*(?:/(?:usr/)?bin/)?sleep\s+(\d{1,6})s?\s*", re.ASCII)
_IMAGES = re.compile(r"vllm(-(openai|cpu|cuda|gpu|rocm))*", re.ASCII)
_MODULES = "vllm.entrypoints."
_SHELLS = frozenset({"sh", "bash", "dash"})
_SEVERAL_SERVERS = ("--api-server-count", "-asc", "--data-parallel-size", "-dp")


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """Durations in whole seconds.

    `timeout` is the longest wait for running requests, `withdrawal` how long proxies may go on sending to a pod that
    ends, and `teardown` what an engine needs to end after its last request.
    """

    timeout: int = 120
    withdrawal: int = 15
    teardown: int = 15


@dataclass(frozen=True, slots=True)
class Server:
    """The container that KServe makes of runtime and service, and what is known of its engine.

    `container` and `grace_seconds` are the merged pod's; `line` is its command and arguments with their lines of git.
    `lacks` are flags that its preflight found unknown to this engine; None: it was not asked.
    """

    container: Mapping[str, Any]
    line: Sequence[Argument]
    grace_seconds: int | None = None
    mode: str = names.STANDARD
    lacks: Collection[str] | None = None

    @property
    def pre_stop(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.container.get("lifecycle") or {}).get("preStop") or {}
        return found


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What is added, and why; and what does not fit together although its user wrote it so."""

    additions: Additions = NO_ADDITIONS
    added: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()


def find_drain(service: DesiredObject, server: Server, settings: DrainSettings) -> DrainPlan:
    """How the pods of one service end. `service` is its InferenceService as git has it."""
    if server.mode != names.STANDARD or is_switched_off(service) or not serves_vllm(server):
        return DrainPlan()
    return _Choice(service, server, settings).drain()


def is_switched_off(service: DesiredObject) -> bool:
    """Does the service keep these settings out?"""
    annotations = service.body["metadata"].get("annotations") or {}
    return str(annotations.get(SWITCH)).lower() == "false"


class _Choice:
    """One service's settings, each given or ours."""

    def __init__(self, service: DesiredObject, server: Server, settings: DrainSettings) -> None:
        self._service, self._server, self._settings = service, server, settings
        self._given_timeout = _seconds(flag_value(server.line, FLAG))
        self._has_timeout = bool(find(server.line, FLAG))
        self._cuts = _why_it_cuts(server)
        self._pre_stop = self._choose_pre_stop()
        self._timeout = self._choose_timeout()

    def drain(self) -> DrainPlan:
        additions = Additions(
            arguments=() if self._has_timeout or self._timeout is None else (f"{FLAG}={self._timeout}",),
            pre_stop=None if self._server.pre_stop or not self._pre_stop else {"sleep": {"seconds": self._pre_stop}},
            grace_seconds=None if self._server.grace_seconds is not None else self._needed(),
        )
        return DrainPlan(additions, self._added(additions), self._warnings())

    def _choose_pre_stop(self) -> int:
        """Where SIGTERM would cut requests, what runs has to end before it."""
        if self._server.pre_stop:
            known = _sleep_of(self._server.pre_stop)
            return self._settings.withdrawal if known is None else known
        wanted = self._settings.timeout if self._cuts else self._settings.withdrawal
        room = self._room(self._given_timeout or 0)
        if room is None:
            return wanted
        # Of a short period most is for the requests themselves, wherever they end.
        return min(wanted, room if self._cuts or self._has_timeout else room // 4)

    def _choose_timeout(self) -> int | None:
        """None: the flag is of no use, or there is no time for it."""
        if self._has_timeout:
            return self._given_timeout
        room = self._room(self._pre_stop)
        if self._cuts or room == 0:
            return None
        return self._settings.timeout if room is None else min(self._settings.timeout, room)

    def _room(self, taken: int) -> int | None:
        """What is left of a grace period that is given; None: there is none."""
        given = self._server.grace_seconds
        return None if given is None else max(0, given - taken - self._settings.teardown)

    def _needed(self) -> int:
        return self._pre_stop + (self._timeout or 0) + self._settings.teardown

    # ------------------------------------------------------------ text

    def _added(self, additions: Additions) -> tuple[Reason, ...]:
        texts = []
        if additions.pre_stop:
            why = self._cuts or "requests stop arriving before SIGTERM"
            texts.append(f"preStop sleeps {self._pre_stop} s: {why}")
        if additions.arguments:
            texts.append(f"{additions.arguments[0]}: requests that run then may finish")
        if additions.grace_seconds is not None:
            texts.append(f"terminationGracePeriodSeconds {additions.grace_seconds}: time for both, and to end")
        off = f'annotation {SWITCH}: "false" leaves them out'
        return tuple(Reason(ReasonCode.DRAIN_ADDED, f"added {text}; {off}", self._service.origin) for text in texts)

    def _warnings(self) -> tuple[Reason, ...]:
        grace, settings = self._server.grace_seconds, self._settings
        if grace is not None and grace < self._needed():
            parts = f"preStop ({self._pre_stop} s), {FLAG} ({self._timeout or 0} s) and {settings.teardown} s to end"
            text = f"terminationGracePeriodSeconds {grace} is shorter than {parts} together"
            wanted = self._pre_stop + (self._given_timeout or settings.timeout) + settings.teardown
            text = f"{text}: requests that run then are cut; raise it, to {wanted} for example"
            return (self._warning(text, self._grace_origin()),)
        if self._given_timeout == 0:
            text = f"{FLAG} 0 cuts all requests that run at SIGTERM; raise it, or leave it out"
            return (self._warning(text, self._flag_origin()),)
        if self._cuts and self._server.pre_stop:
            text = f"{self._cuts}; preStop is given, and what runs longer than it waits is cut"
            return (self._warning(text, self._flag_origin()),)
        return ()

    def _warning(self, text: str, origin: Origin) -> Reason:
        return Reason(ReasonCode.DRAIN_CUT_SHORT, text, origin)

    def _grace_origin(self) -> Origin:
        return self._service.origin_of("spec.predictor.terminationGracePeriodSeconds")

    def _flag_origin(self) -> Origin:
        where = server_place(self._service.body["spec"]["predictor"])
        fallback = self._service.origin_of(field_path(where, "args")) if where else self._service.origin
        found = find(self._server.line, FLAG)
        return (found[-1][0].origin or fallback) if found else fallback


def serves_vllm(server: Server) -> bool:
    """Does its command start vLLM's server, so that a flag behind it reaches that? No shell does."""
    line = [each.text for each in server.line]
    if not server.container.get("command"):
        return _is_vllm_image(server.container.get("image") or "") and line[:1] != ["-c"]
    if line[0].rsplit("/", 1)[-1] == "vllm":
        return line[1:2] == ["serve"]
    return any(flag == "-m" and module.startswith(_MODULES) for flag, module in pairwise(line))


def knows_flag(server: Server) -> bool:
    """Does this engine know `--shutdown-timeout`? One that does not would refuse to start with it."""
    if server.lacks is not None:
        return FLAG not in server.lacks
    image = server.container.get("image") or ""
    release = _RELEASE.match(_tag(image))
    return _is_vllm_image(image) and release is not None and (int(release[1]), int(release[2])) >= _SINCE


def _why_it_cuts(server: Server) -> str:
    """Why SIGTERM cuts running requests whatever is asked for; empty: the flag lets them finish."""
    if not find(server.line, FLAG) and not knows_flag(server):
        return f"it is not known that this image's vLLM has {FLAG}, so requests end before SIGTERM"
    if takes_grpc(server.line) or speaks_grpc(server.line):
        return "vLLM's gRPC server does not drain, so requests end before SIGTERM"
    if any((_seconds(flag_value(server.line, flag)) or 1) > 1 for flag in _SEVERAL_SERVERS):
        return "vLLM does not drain with several API servers, so requests end before SIGTERM"
    return ""


def _sleep_of(handler: Mapping[str, Any]) -> int | None:
    """How long a handler waits; None: that is not known."""
    if "sleep" in handler:
        return _seconds(str((handler["sleep"] or {}).get("seconds")))
    command = [str(each) for each in (handler.get("exec") or {}).get("command") or ()]
    if len(command) == 3 and command[0].rsplit("/", 1)[-1] in _SHELLS and command[1] == "-c":
        command = command[2:]
    found = _SLEEP.fullmatch(" ".join(command))
    return int(found[1]) if found else None


def _seconds(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,6}", text, re.ASCII) else None


def _is_vllm_image(image: str) -> bool:
    """By its repository: `vllm/vllm-openai`, `quay.io/modh/vllm`."""
    repository = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return _IMAGES.fullmatch(repository) is not None


def _tag(image: str) -> str:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]
