"""The proxy of one host: Envoy, configured by files that are renamed into place.

If we die, traffic does not notice. Between any two writes the files on disk and the routes in Envoy serve every
service that had a replica before.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import structlog

from reconciler.config.settings import Routing
from reconciler.config.values import parse_listen
from reconciler.errors import Retryable
from reconciler.host.routing import admin, bootstrap, endpoints, process, resources
from reconciler.host.routing.admin import Admin, EndpointState, RefusedRequests, Uptake
from reconciler.host.routing.files import dump_routes, load_routes, read_file, write_file
from reconciler.host.routing.process import holder_of, is_free
from reconciler.host.routing.xds_files import NOTHING, Content, WatchedFiles, content
from reconciler.model import Address, Routed, ServiceId, ServiceRoute
from reconciler.system import procfs
from reconciler.system.files import cannot, make_folder
from reconciler.system.procfs import Identity

log = structlog.get_logger()

Spawn = Callable[[Path, int], Identity]
"""Starts Envoy in a folder, with so many threads, and says who it is. Raises Retryable."""

_TABLE = "routes.json"
_PATIENCE = 15.0
# One that runs for longer than it may take to start is not about to answer.
_PATIENCE_WITH_OLD = 1.0
_PORT_PATIENCE = 1.0
_END_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class ProxyState:
    """The proxy's view of itself.

    `running`: the process is there. `ready`: it answers, and listens as the settings say. `endpoints` by address; None
    when it did not answer. `applied` is the table that it runs; empty when it is known to run another one.
    """

    running: bool
    ready: bool
    endpoints: Mapping[Address, EndpointState] | None
    applied: Mapping[ServiceId, ServiceRoute]

    def endpoint(self, address: Address) -> EndpointState:
        """One replica's state; unknown when the proxy did not answer."""
        if self.endpoints is None:
            return EndpointState(Routed.UNKNOWN, None)
        return self.endpoints.get(address, EndpointState(Routed.ABSENT, 0))


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of routes as Envoy gets it."""

    routes: tuple[ServiceRoute, ...] = ()
    members: endpoints.Members = field(default_factory=dict)
    rds: Content = NOTHING
    eds: Content = NOTHING
    grpc: Content = NOTHING
    tls: Content = NOTHING
    lds: Content = NOTHING

    def runs(self, uptakes: Mapping[str, Uptake]) -> bool:
        """Is it what Envoy runs?"""
        files = (("rds", self.rds), *self.of_members())
        return all(each.runs(uptakes[name]) for name, each in files if name != "grpc" or self._has_grpc(uptakes))

    def _has_grpc(self, uptakes: Mapping[str, Uptake]) -> bool:
        """The Envoy of an older release has no cluster for it, and with no endpoint in there runs the same table."""
        return bool(uptakes["grpc"].version) or any(member.grpc for member in self.members.values())

    def of_members(self) -> tuple[tuple[str, Content], ...]:
        """The files that list members, by their names."""
        return ("eds", self.eds), ("grpc", self.grpc), ("tls", self.tls)


class EnvoyProxy:
    """Starts, configures, queries and ends the Envoy of one folder. Only one process may write there at a time."""

    def __init__(self, folder: Path, settings: Routing, spawn: Spawn = process.spawn) -> None:
        """`spawn` starts Envoy. Raises ValueError if the address to listen on is not one."""
        self._spawn = spawn
        self._folder = folder.absolute()
        self._settings = settings
        self._address = parse_listen(settings.listen)
        self._clusters = content(bootstrap.cluster(), bootstrap.grpc_cluster(), bootstrap.passthrough_cluster())
        self._admin = Admin(self._folder)
        self._files = WatchedFiles(self._folder, self._admin)
        self._last_read: tuple[str, _Table] = ("", self._unknown_table())

    def observe(self) -> ProxyState:
        """What is there now. It never writes and never raises."""
        table = self._table_on_disk()
        applied = {route.service: route for route in table.routes}
        try:
            found, uptakes = self._admin.survey()
        except Retryable:
            return ProxyState(process.find(self._folder) is not None, False, None, MappingProxyType(applied))
        if not uptakes["eds"].version:
            # It has just started and knows no endpoint yet: that none is listed means nothing.
            return ProxyState(True, False, None, MappingProxyType(applied))
        found = _together(found, table.routes)
        ready = self._clusters.runs(uptakes["cds"]) and table.lds.runs(uptakes["lds"])
        return ProxyState(True, ready, found, MappingProxyType(applied if table.runs(uptakes) else {}))

    def apply(self, routes: tuple[ServiceRoute, ...]) -> None:
        """Makes the proxy run this table. Writes only what changed; may be killed anywhere and called again.

        New endpoints first, then the routes, then the old endpoints go. Raises Retryable if Envoy refuses the table
        (it keeps the one before) or does not answer.
        """
        process.trim_log(self._folder)
        unpublished: tuple[ServiceId, ...] = ()
        try:
            desired = self._table_for(routes)
        except Exception:
            # A bug in one route must not keep the others' requests from their new replicas.
            routes, unpublished = self._publishable(routes)
            desired = self._table_for(routes)
        if not (self._is_published("rds", desired.rds) and self._is_published("lds", desired.lds)):
            both = endpoints.bridge(self._members_on_disk(), desired.members)
            self._publish(_tables_of(both))
            self._open(desired.lds)
            self._files.publish("rds", desired.rds)
            self._files.publish("lds", desired.lds)
        self._publish(desired)
        write_file(self._folder / _TABLE, dump_routes(routes))
        if unpublished:
            names = ", ".join(map(str, unpublished))
            raise Retryable(
                f"the routes of {names} raise an error, and stay as they were; the daemon's log has the details"
            )

    def _publish(self, table: _Table) -> None:
        """Its members."""
        for name, desired in table.of_members():
            self._files.publish(name, desired)

    def _publishable(self, routes: tuple[ServiceRoute, ...]) -> tuple[tuple[ServiceRoute, ...], tuple[ServiceId, ...]]:
        """The routes that can be published, with the previous one for each that raises; and the services of those."""
        before = {route.service: route for route in self._table_on_disk().routes}
        published: list[ServiceRoute] = []
        unpublished: list[ServiceId] = []
        for route in routes:
            if self._can_be_published(route):
                published.append(route)
                continue
            unpublished.append(route.service)
            if (old := before.get(route.service)) is not None and self._can_be_published(old):
                published.append(old)
        return tuple(published), tuple(unpublished)

    def _can_be_published(self, route: ServiceRoute) -> bool:
        try:
            self._table_for((route,))
        except Exception:
            log.exception("route_raised", service=str(route.service))
            return False
        return True

    def ensure_running(self, replace: bool = False) -> None:
        """Starts Envoy unless it runs, and waits until it serves what is in the files. Raises Retryable.

        `replace`: the one that runs is beyond repair, and ends first.
        """
        self._lay_out()
        running = process.find(self._folder)
        if running is not None and replace:
            # Before it ends: its supervisor may start the next one at once.
            admin.forget(self._folder)
            process.end(running, _END_PATIENCE)
            running = process.find(self._folder)
        elif running is not None:
            admin.restore(self._folder)
        if running is None:
            self._refuse_taken_port()
            running = self._spawn(self._folder, process.threads())
        process.record(self._folder, running)
        self._wait_until_live(running)
        self._files.publish("cds", self._clusters)
        table = self._table_on_disk()
        self._open(table.lds)
        if table.rds is not NOTHING:
            # First: the filters of another release may refuse what these routes do not speak of.
            self._files.publish("rds", table.rds)
        self._files.publish("lds", table.lds)

    def _open(self, lds: Content) -> None:
        """Without a listener, as where another process had its port when it started, it takes up no routes at all."""
        if not self._admin.uptakes()["lds"].version:
            self._files.publish("lds", lds)

    def _is_published(self, name: str, desired: Content) -> bool:
        return desired.runs(self._admin.uptakes()[name]) and self._files.text(name) == desired.text

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: an IP address and a port."""
        return self._address

    def is_live(self) -> bool:
        """Whether its configuration can be changed. Raises Retryable when it does not respond."""
        live = self._admin.is_live()
        admin.keep(self._folder)
        return live

    def refused(self) -> RefusedRequests:
        """What it refused since it started. Raises Retryable."""
        return self._admin.refused()

    def find_process(self) -> Identity | None:
        """The Envoy that runs, if one does."""
        return process.find(self._folder)

    def stop(self) -> None:
        """Ends Envoy, and with it every request in it. The routes stay on disk."""
        running = process.find(self._folder)
        if running is not None:
            process.end(running)
        (self._folder / process.RECORD).unlink(missing_ok=True)
        admin.forget(self._folder)

    def _lay_out(self) -> None:
        """Puts down what Envoy must find when it starts. Files of an earlier Envoy stay: it serves the same at once."""
        try:
            make_folder(self._folder)
            if self._spawn is process.spawn:
                # A unit's may be open to the proxy's user.
                self._folder.chmod(0o700)
        except OSError as error:
            raise Retryable(cannot(error, self._folder, "made")) from error
        process.trim_log(self._folder)
        # A unit has its own limit, which is enough.
        descriptors = process.most_descriptors() if self._spawn is process.spawn else math.inf
        write_file(
            self._folder / "bootstrap.json",
            json.dumps(bootstrap.bootstrap(self._settings.max_body_bytes, descriptors), indent=1),
        )
        if self._files.resource("eds") is None or self._files.resource("rds") is None:
            (self._folder / _TABLE).unlink(missing_ok=True)
            empty = self._table_for(())
            self._files.lay_out("eds", empty.eds)
            self._files.lay_out("rds", empty.rds)
        known = self._table_on_disk()
        for name, desired in (("cds", self._clusters), ("lds", known.lds), *known.of_members()[1:]):
            if self._files.resource(name) is None:
                self._files.lay_out(name, desired)

    def _refuse_taken_port(self) -> None:
        host, port = self._address
        # A killed Envoy is gone a moment before its last thread lets go of the port.
        deadline = time.monotonic() + _PORT_PATIENCE
        try:
            while not is_free(host, port):
                if time.monotonic() > deadline:
                    who = holder_of(port)
                    raise Retryable(f"routing.listen: {host}:{port} is in use by {who}; stop it or choose another port")
                time.sleep(0.02)
        except OSError as error:
            raise Retryable(f"routing.listen: cannot listen on {host}:{port}: {error.strerror}") from error

    def _wait_until_live(self, running: Identity) -> None:
        age = procfs.age(running)
        patience = _PATIENCE_WITH_OLD if age > _PATIENCE else _PATIENCE - age
        deadline = time.monotonic() + patience
        problem = "no reason given"
        while time.monotonic() < deadline:
            if not process.is_alive(running):
                words = process.last_words(self._folder) or "no log output"
                raise Retryable(f"the proxy ended while it started: {words}; see {self._folder / process.LOG}")
            try:
                if self._admin.is_live():
                    admin.keep(self._folder)
                    return
            except Retryable as error:
                problem = str(error)
            time.sleep(0.02)
        # The same text for the same failure: it is reported once.
        raise Retryable(f"the proxy (pid {running.pid}) runs, but is not ready: {problem}")

    def _table_for(self, routes: tuple[ServiceRoute, ...]) -> _Table:
        members = endpoints.members_of(routes)
        domain = self._settings.domain
        passed = resources.passthrough_hosts(routes, domain)
        return replace(
            _tables_of(members),
            routes=routes,
            rds=content(resources.route_table(routes, domain)),
            lds=content(bootstrap.listener(self._settings, passed)),
        )

    def _table_on_disk(self) -> _Table:
        """What was last published, as Envoy would get it today:

        another domain, or another release of the daemon, differs.
        """
        text = read_file(self._folder / _TABLE) or ""
        if text != self._last_read[0]:
            try:
                table = self._table_for(load_routes(text))
            except ValueError:
                table = self._unknown_table()
            except Exception:
                # Not again as long as it stays the same.
                log.exception("routes_raised", folder=str(self._folder))
                table = self._unknown_table()
            self._last_read = (text, table)
        return self._last_read[1]

    def _unknown_table(self) -> _Table:
        """Routes and endpoints that Envoy never runs, so that everything is published again, but a listener to continue
        with.
        """
        nothing = self._table_for(())
        return _Table(lds=nothing.lds, grpc=nothing.grpc, tls=nothing.tls)

    def _members_on_disk(self) -> endpoints.Members:
        return {**self._read_members("eds"), **self._read_members("grpc")}

    def _read_members(self, name: str) -> endpoints.Members:
        try:
            return endpoints.read_members(self._files.resource(name))
        except (ValueError, KeyError, TypeError, IndexError):
            return {}


def _together(found: dict[Address, EndpointState], routes: tuple[ServiceRoute, ...]) -> dict[Address, EndpointState]:
    """What runs at both addresses of a replica counts at its first one."""
    for endpoint in (each for route in routes for each in route.endpoints if each.grpc_port):
        first, beside = found.get(endpoint.address), found.get(endpoint.grpc_port)
        if first is not None and beside is not None:
            known = first.in_flight is not None and beside.in_flight is not None
            total = (first.in_flight or 0) + (beside.in_flight or 0)
            found[endpoint.address] = replace(first, in_flight=total if known else None)
    return found


def _tables_of(members: endpoints.Members) -> _Table:
    return _Table(
        members=members,
        eds=content(endpoints.endpoint_table(members)),
        grpc=content(endpoints.grpc_table(members)),
        tls=content(endpoints.passthrough_table(members)),
    )
