"""The proxy's process: that it ends, hangs, or is another one than before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from reconciler.errors import ReconcileError
from reconciler.host.probing.liveness import Witness
from reconciler.host.probing.probing import Probes
from reconciler.host.process.exit_watch import ExitWatch
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.routing.watch import ProxyWatch
from reconciler.host.supervisor import Supervisor
from reconciler.model import ProxyBreak
from reconciler.system import procfs

_PROXY = "proxy"


class ProxyMonitor:
    """Its threads run from `start` to `close`."""

    def __init__(
        self,
        proxy: EnvoyProxy,
        supervisor: Supervisor,
        probes: Probes,
        witness: Witness,
        wake: Callable[[], None],
        take_refused: Callable[[str, Mapping[str, int], int], None],
    ) -> None:
        self._proxy = proxy
        self._supervisor = supervisor
        self._probes = probes
        self._witness = witness
        self._wake = wake
        self._watch = ProxyWatch(proxy, wake, self._note_answer, self._is_alone, take_refused)
        self._exits: ExitWatch | None = None
        self._seen: procfs.Identity | None = None

    @property
    def found(self) -> ProxyBreak:
        """What is wrong with it."""
        return self._watch.found

    def start(self) -> None:
        self._watch.start()
        self._exits = ExitWatch(on_exit=lambda _: self._wake(), chore=lambda: None)

    def close(self) -> None:
        self._watch.close()
        if self._exits is not None:
            self._exits.close()

    def follow(self) -> None:
        """The daemon's loop has to learn at once when the proxy ends, and that another one can do its work."""
        if self._exits is None or (found := self._proxy.find_process()) is None:
            return
        self._exits.watch(found)
        if found != self._seen:
            # systemd may have started it again, as another user than before.
            with suppress(ReconcileError):
                self._supervisor.open_to_proxy()
                self._seen = found

    def _note_answer(self, now: float) -> None:
        self._witness.note(_PROXY, now)

    def _is_alone(self, since: float) -> bool:
        """Do the replicas not answer either?"""
        return self._probes.watches and not self._witness.others_since(_PROXY, since)
