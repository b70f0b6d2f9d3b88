"""Real vLLM behind a real Envoy, moved by single actions: without a planner between us and the host."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.config import settings as config
from reconciler.host.inventory import Inventory
from reconciler.host.process import scratch
from reconciler.host.process.process_discovery import ProcessDiscovery, Trace, marker_of
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.host.target import HostTarget
from reconciler.model import (
    AskPreflight,
    Desired,
    Drain,
    EffectiveSpec,
    Endpoint,
    EnsureProxy,
    Fit,
    Forget,
    Lease,
    MarkReady,
    Mount,
    Observed,
    Remove,
    Replica,
    ReplicaId,
    Routed,
    ServiceRoute,
    SetRoutes,
    Start,
    Stop,
    TakeOwnership,
)
from reconciler.system import procfs
from tests.support.arguments import written
from tests.support.ports import free_port
from tests.support.world import ORIGIN, SERVICE, eventually

pytestmark = pytest.mark.engine

REPLICA = ReplicaId(SERVICE, "aaaaaaaa-0")
DIGEST = "a" * 64
FLAGS = "--enforce-eager --dtype bfloat16 --max-model-len 256 --kv-cache-memory-bytes 33554432"
PATIENCE = 500.0

MakeHost = Callable[[Path], HostTarget]


@pytest.fixture
def make_host(tmp_path: Path, tiny_model: Path) -> Iterator[MakeHost]:
    made: list[HostTarget] = []

    def make(python: Path) -> HostTarget:
        made.append(HostTarget(settings(python, tiny_model), tmp_path / "box", lambda: None))
        return made[-1]

    yield make
    for host in made:
        for record in Inventory(tmp_path / "box").replicas():
            host.perform(Stop(record.id, "t", force=True))
            host.perform(Remove(record.id, "t"))
        host.close()
    EnvoyProxy(tmp_path / "box" / "proxy", config.Routing()).stop()


def settings(python: Path, model: Path) -> config.HostSettings:
    return config.HostSettings.model_validate(
        {
            "name": "box",
            "paths": ["hosts/box"],
            "engines": [{"image": "vllm:*", "python": python, "env": {"OMP_NUM_THREADS": "1"}}],
            "volumes": {"models": model.parent},
            "gpus": [],
            "routing": {"listen": f"127.0.0.1:{free_port()}"},
        }
    )


def spec(model: Path) -> EffectiveSpec:
    command = ("python", "-m", "vllm.entrypoints.openai.api_server")
    args = ("--model", "/mnt/models", *FLAGS.split())
    return EffectiveSpec("vllm:0.32", written(*command), written(*args), mounts=(Mount(f"pvc://models/{model.name}"),))


def observe(host: HostTarget, *wanted: Desired) -> Observed:
    observed = host.observe(wanted)
    assert isinstance(observed, Observed), observed
    observed = host.preflight(wanted, observed)
    assert isinstance(observed, Observed), observed
    return observed


def see(host: HostTarget) -> Replica:
    (found,) = observe(host).replicas
    assert found.alive or found.stopping_at, found.blame or found.last_words
    return found


def route(host: HostTarget, *endpoints: Endpoint) -> None:
    routes = (ServiceRoute(SERVICE, endpoints),) if endpoints else ()
    host.perform(SetRoutes(routes, (SERVICE,), "t"))


def ask(listen: str) -> str:
    connection = http.client.HTTPConnection(listen, timeout=120)
    body = json.dumps({"model": "chat", "prompt": "hello", "max_tokens": 4})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["choices"][0]["finish_reason"])


def assert_the_engine_agrees(host: HostTarget, estimated: Fit, measured: Fit | None) -> None:
    """The cache holds as many tokens as was worked out from config.json, and the log's own figures are shown then."""
    said = "\n".join(host.logs(SERVICE, 4000))
    tokens = re.search(r"KV cache size: ([\d,]+) tokens", said)
    assert tokens is not None, said
    assert estimated.kv_bytes_per_token is not None
    assert int(tokens[1].replace(",", "")) * estimated.kv_bytes_per_token == estimated.kv_bytes == 33554432
    assert measured is not None
    assert (measured.measured, measured.concurrency) == (True, estimated.concurrency)
    assert "measured" in measured.line


@pytest.mark.timeout(900)
def test_real_engine_lives_its_whole_life_and_nothing_is_left(
    make_host: MakeHost, engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    host = make_host(engine_python)
    wanted = Desired(SERVICE, ORIGIN, spec(tiny_model), DIGEST)
    host.perform(AskPreflight(SERVICE, DIGEST, spec(tiny_model), ORIGIN, "t"))
    observed = observe(host, wanted)
    assert DIGEST in (observed.preflighting | observed.preflights.keys())
    eventually(lambda: DIGEST in observe(host, wanted).preflights, PATIENCE)
    verdict = observe(host, wanted).preflights[DIGEST]
    assert verdict.accepted, verdict.reasons
    assert verdict.fit is not None
    estimated = verdict.fit
    assert (estimated.measured, estimated.refusal) == (False, "")

    host.perform(EnsureProxy("t"))
    host.perform(TakeOwnership(SERVICE, ORIGIN, "t"))
    port = free_port()
    host.perform(Start(REPLICA, DIGEST, spec(tiny_model), ORIGIN, Lease(port), 20.0, verdict.parsed, "1" * 40, "t"))
    eventually(lambda: see(host).ready_now, PATIENCE)
    host.perform(MarkReady(REPLICA, "t"))
    assert_the_engine_agrees(host, estimated, observe(host, wanted).preflights[DIGEST].fit)
    at = see(host).socket
    assert at
    route(host, Endpoint(REPLICA, port, socket=at))
    seen = see(host)
    assert (seen.routed, seen.healthy) == (Routed.ACTIVE, True)
    assert ask(settings_of(host).routing.listen) == "length"

    host.perform(Drain(REPLICA, "t"))
    route(host, Endpoint(REPLICA, port, draining=True, socket=at))
    eventually(lambda: see(host).quiet_samples >= 2)
    assert (see(host).routed, see(host).in_flight) == (Routed.DRAINING, 0)
    host.perform(Stop(REPLICA, "t"))
    eventually(lambda: not see(host).alive and not see(host).leftovers, PATIENCE)
    host.perform(Remove(REPLICA, "t"))
    route(host)
    host.perform(Forget(SERVICE, "t"))
    assert port not in procfs.listeners()
    box = tmp_path / "box"
    assert not scratch.folder_of(box, REPLICA).exists()
    assert not [path for name in ("replicas", "services", "tmp") for path in (box / name).rglob("*")]


@pytest.mark.timeout(900)
def test_processes_of_a_killed_stock_server_are_known_by_their_marker(
    make_host: MakeHost, stock_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """They set their own titles, which would overwrite the environment that we know them by."""
    host = make_host(stock_python)
    host.perform(Start(REPLICA, DIGEST, spec(tiny_model), ORIGIN, Lease(free_port()), 20.0, "", "1" * 40, "t"))
    eventually(lambda: see(host).ready_now, PATIENCE)
    host.perform(MarkReady(REPLICA, "t"))
    record = Inventory(tmp_path / "box").replica(REPLICA)
    assert record is not None
    assert record.process is not None
    assert len(record.members) >= 3
    # Without what was noted: only the marker counts.
    trace = Trace(record, marker_of(tmp_path / "box", REPLICA), "no log")
    marked = {seen.who for seen in ProcessDiscovery().members(trace) if seen.marker == trace.marker}
    titles = [Path(f"/proc/{who.pid}/cmdline").read_bytes() for who in marked]
    assert any(title.startswith(b"VLLM::") for title in titles), titles
    assert marked == set(record.members)

    os.kill(record.process.pid, signal.SIGKILL)
    eventually(lambda: not observe(host).replicas[0].alive)
    assert observe(host).replicas[0].leftovers > 0
    host.perform(Stop(REPLICA, "t", force=True))
    assert not any(procfs.is_running(who) for who in marked)
    host.perform(Remove(REPLICA, "t"))
    assert not [file for file in record.shared_memory if (Path("/dev/shm") / file.name).exists()]


def settings_of(host: HostTarget) -> config.HostSettings:
    return host._settings
