"""What the probe says about real servers: starting, ready, dead, overloaded, badly started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconciler.engines.last_words import fatal_reason
from reconciler.engines.probe import Probe, count_requests
from reconciler.engines.replica_connection import NoResponse
from reconciler.model.crash_signs import is_crowded_out
from tests.support.engine.fixtures import engine_processes
from tests.support.engine.server import running, wait_for
from tests.support.ports import free_port

engine = pytest.mark.engine


@engine
def test_starting_server_is_not_ready_and_a_started_one_is(
    engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with running(engine_python, tiny_model, tmp_path) as server:
        early = Probe().check(server.address, server.model)
        assert (early.ready, early.healthy) == (False, None)
        assert early.detail == f"nothing listens on the socket {server.address} yet"
        ready = server.wait_ready()
        assert (ready.ready, ready.healthy) == (True, True)
        assert Probe().in_flight(server.address) == 0


@engine
def test_server_that_serves_another_model_is_not_ready(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path) as server:
        server.wait_ready()
        wrong = Probe().check(server.address, "demo/other")
        assert (wrong.ready, wrong.healthy) == (False, True)
        assert wrong.detail == "/v1/models lists /mnt/models, tiny, demo/tiny, not demo/other"


def make_adapter(folder: Path) -> Path:
    """A LoRA adapter of zeros for the tiny model."""
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes, header, at = {f"{layer}.lora_A.weight": (8, 128), f"{layer}.lora_B.weight": (128, 8)}, {}, 0
    for name, (rows, columns) in shapes.items():
        end = at + 4 * rows * columns
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [at, end]}
        at = end
    text, folder = json.dumps(header).encode(), folder / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    told = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


@engine
def test_adapter_named_like_its_service_is_what_its_name_means(
    engine_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    args = ("--served-model-name=base", "--enable-lora", "--max-lora-rank=8", "--lora-modules")
    with running(engine_python, tiny_model, tmp_path, *args, f"tiny={make_adapter(tmp_path)}") as server:
        server.wait_ready()
        assert [Probe().check(server.address, model).ready for model in ("base", "tiny")] == [True, True]
        missing = Probe().check(server.address, "other").detail
        assert missing == "/v1/models lists base, demo/tiny, tiny, not other"


@engine
def test_servers_key_is_needed_and_used(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path, "--api-key=secret") as server:
        wait_for(lambda: Probe().health(server.address))
        refused = Probe().check(server.address, server.model)
        assert not refused.ready
        assert refused.detail.startswith("/v1/models answered 401")
        assert server.wait_ready("secret").ready


@pytest.mark.parametrize("key", ["k3y\n", "a\r\nX: b", "sch\u043bssel", "\udcffraw", "nul\0"])
def test_key_that_no_header_can_hold_is_said_and_not_shown(key: str) -> None:
    with pytest.raises(NoResponse, match="API key cannot be sent by any client") as told:
        Probe()._unlisted(free_port(), "m", key)
    assert key.strip() not in str(told.value)


@engine
def test_running_and_waiting_requests_are_counted(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path, "--max-num-seqs=1") as server:
        server.wait_ready()
        streams = [server.stream(2000)]
        others = [threading.Thread(target=server.stream, args=(3,), daemon=True) for _ in range(2)]
        for thread in others:
            thread.start()
        wait_for(lambda: Probe().in_flight(server.address) == 3)
        assert streams[0].is_complete()
        wait_for(lambda: Probe().in_flight(server.address) == 0)


@engine
def test_dead_engine_is_noticed(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with running(engine_python, tiny_model, tmp_path) as server:
        server.wait_ready()
        for pid in engine_processes(engine_python, server.process.pid)[1:]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Probe().check(server.address, server.model).ready)
        # Engine death ends the server with 0: only the exit itself tells, never its code.
        assert server.process.wait(60) == 0
        assert Probe().in_flight(server.address) is None


@engine
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--foo=1",), "unrecognized arguments: --foo=1"),
        (("--block-size=17",), "ValueError: No common block size for 17"),
        (("--load-format=blah",), "ValueError: Load format `blah` is not supported"),
        (("--max-model-len=99999",), "User-specified max_model_len (99999) is greater than the derived max_model_len"),
        (("--kv-cache-memory-bytes=900G",), "on kv cache allocation is less than requested memory for kv (900.0 GiB)"),
    ],
)
def test_failed_start_says_why(
    engine_python: Path, tiny_model: Path, tmp_path: Path, args: tuple[str, ...], reason: str
) -> None:
    with running(engine_python, tiny_model, tmp_path, *args) as server:
        assert server.process.wait(120) != 0
        log = server.log.read_text().splitlines()[-200:]
        assert reason in (fatal_reason(log) or "")
        assert not is_crowded_out(log)


@engine
def test_missing_weights_are_named(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with running(engine_python, model, tmp_path, "--skip-tokenizer-init") as server:
        assert server.process.wait(120) != 0
        assert "Cannot find any model weights" in (fatal_reason(server.log.read_text().splitlines()) or "")


@engine
def test_taken_port_is_told_from_other_failures(engine_python: Path, tiny_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with running(engine_python, tiny_model, tmp_path, port=taken.getsockname()[1]) as server:
            assert server.process.wait(120) != 0
            assert is_crowded_out(server.log.read_text().splitlines())


@engine
@pytest.mark.parametrize("begins", ["Free memory on device", "Error in memory profiling"])
def test_vllm_still_tells_in_these_words_of_a_crowded_gpu(stock_python: Path, begins: str) -> None:
    # Without a GPU nothing makes it say so.
    workers = stock_python.parents[1].glob("lib/python3*/site-packages/vllm/v1/worker/*.py")
    assert any(begins in path.read_text() for path in workers)
    assert is_crowded_out([f"ValueError: {begins} cuda:0"])


@engine
def test_stock_server_is_probed_and_leaves_its_engine_behind_when_killed(
    stock_python: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with running(stock_python, tiny_model, tmp_path) as server:
        assert server.wait_ready().ready
        family = engine_processes(stock_python, server.process.pid)
        assert len(family) > 2
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        assert Probe().check(server.address, server.model).healthy is None
        alive = [pid for pid in family[1:] if _command(pid)]
        assert alive, "vLLM now takes its engine along; the kill of the whole group may be superfluous"
        os.killpg(server.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(_command(pid) for pid in family))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# ---------------------------------------------------------------- servers that no vLLM would be


class _Odd(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, bytes]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, b"{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def odd(**answers: tuple[int, bytes]):  # type: ignore[no-untyped-def]
    paths = {
        "health": "/health",
        "models": "/v1/models",
        "completion": "/v1/completions",
        "embedding": "/v1/embeddings",
    }
    table = {paths.get(name, f"/{name}"): answer for name, answer in {"health": (200, b""), **answers}.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Odd,), {"answers": table}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


LISTED = (200, b'{"data": [{"id": "m"}]}')


def test_unhealthy_server_is_not_ready() -> None:
    with odd(health=(503, b"")) as port:
        assert Probe().check(port, "m").healthy is False
    with odd(health=(500, b"")) as port:
        assert Probe().check(port, "m").healthy is None


@pytest.mark.slow
def test_http_200_alone_is_no_proof() -> None:
    for body in (b"", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"finish_reason": "abort"}]}'):
        with odd(models=LISTED, completion=(200, body)) as port:
            assert Probe().check(port, "m").detail == "/v1/completions answered without a result"
    with odd(models=LISTED, completion=(200, b'{"choices": [{"finish_reason": "length"}]}')) as port:
        assert Probe().check(port, "m").ready


def test_draining_server_is_not_ready_although_it_is_healthy() -> None:
    error = b'{"error": {"message": "cannot schedule new futures after shutdown"}}'
    with odd(models=LISTED, completion=(500, error)) as port:
        result = Probe().check(port, "m")
        assert (result.ready, result.healthy) == (False, True)
        assert result.detail == "/v1/completions answered 500: cannot schedule new futures after shutdown"


def test_model_that_only_embeds_is_tried_by_an_embedding() -> None:
    with odd(models=LISTED, embedding=(200, b'{"data": [{"embedding": [1]}]}')) as port:
        assert Probe().check(port, "m").ready
    with odd(models=LISTED, embedding=(500, b"{}")) as port:
        assert not Probe().check(port, "m").ready


@pytest.mark.slow
def test_garbage_instead_of_a_model_list_is_not_ready() -> None:
    for body in (b"\xff", b"[]", b'{"data": 3}', b'{"data": [1]}', b'{"data": [{}]}'):
        with odd(models=(200, body)) as port:
            assert not Probe().check(port, "m").ready


def test_server_that_never_answers_costs_only_its_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert Probe(timeout=0.1).check(port, "m").detail == "/health did not answer within 0.1 s"
        assert Probe(timeout=0.1).in_flight(port) is None


def test_endless_answer_is_cut() -> None:
    with odd(metrics=(200, b"x" * (9 << 20))) as port:
        assert Probe(timeout=10).in_flight(port) is None


def test_unreachable_metrics_are_unknown_and_never_zero() -> None:
    assert Probe().in_flight(free_port()) is None
    with odd(metrics=(500, b"")) as port:
        assert Probe().in_flight(port) is None


RUNNING = 'vllm:num_requests_running{engine="%d",model_name="a b"} %s\n'
WAITING = 'vllm:num_requests_waiting{engine="%d",model_name="a b"} %s\n'


@pytest.mark.parametrize(
    ("metrics", "count"),
    [
        ("", None),
        (RUNNING % (0, "1.0"), None),
        (RUNNING % (0, "1.0") + WAITING % (0, "2.0"), 3),
        (RUNNING % (0, "1.0") + RUNNING % (1, "4") + WAITING % (0, "0.0") + WAITING % (1, "0.0"), 5),
        (RUNNING % (0, "1.0") + RUNNING % (1, "4") + WAITING % (0, "0.0"), None),
        (RUNNING % (0, "NaN") + WAITING % (0, "0.0"), None),
        (RUNNING % (0, "0.0") + WAITING % (0, "0.0") + 'vllm:num_requests_waiting_by_reason{reason="x"} 7.0\n', 0),
        ("# HELP vllm:num_requests_running x\n" + RUNNING % (0, "1e1") + WAITING % (0, "0.0"), 10),
    ],
)
def test_requests_are_summed_over_engines(metrics: str, count: int | None) -> None:
    assert count_requests(metrics) == count
