"""Preflight: the installed vLLM validates arguments before anything is stopped, in the background, and is cached."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from reconciler.engines.last_words import cut, fatal_reason
from reconciler.engines.launch import ADDED, DISPENSABLE, OLDEST_VLLM, PreflightQuestion
from reconciler.engines.limits import Lacks, is_file_of_lacks
from reconciler.engines.verdict import NoVerdict, PreflightVerdict, read_verdict, variable_in
from reconciler.errors import Retryable
from reconciler.fault_isolation import unexpected
from reconciler.model import texts
from reconciler.model.backoff import backoff
from reconciler.system.files import open_regular, write_atomically
from reconciler.system.programs import LONGEST, TooMuchError, exchange, kill_group

log = structlog.get_logger()

SCRIPTS = tuple(
    Path(__file__).with_name("preflight_program") / f"preflight_{name}.py"
    for name in ("probe", "findings", "parser", "text", "hints", "loads")
)
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_FAILURES_THAT_BLOCK = 3
# A moment that lies further ahead was written down before the clock was set back: no verdict is ever younger.
_CLOCK_ERROR = 5.0
# What goes on after that is none, and may be larger than memory.
_LONGEST_CONFIG = 16 << 20


@dataclass(frozen=True, slots=True)
class PreflightProcess:
    """A preflight process: the request goes to its standard input, the result comes from its output.

    `end` ends it with all that it started, and may be called when it has ended. `log` says where to read more.
    """

    process: subprocess.Popen[bytes]
    end: Callable[[], None]
    log: str = ""


# Begins to ask; whatever that leaves behind may live for so many seconds at most. Raises Retryable.
Begin = Callable[[PreflightQuestion, float], PreflightProcess]


@dataclass(frozen=True, slots=True)
class Trouble:
    """No verdict was possible, `count` times in a row; not to be retried before `until` (monotonic)."""

    error: NoVerdict
    until: float
    count: int

    @property
    def lasts(self) -> bool:
        """Is this no moment's trouble?"""
        return self.error.final or self.count >= _FAILURES_THAT_BLOCK

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self.until


class PreflightRunner:
    """Runs one preflight at a time, each in a separate process.

    Verdicts, accepted or not, are kept in `cache`, by key. What went wrong on our side (no interpreter, a timeout) is
    never kept there: it is raised as Retryable when asked again, and tried again after a pause that doubles.
    `wake` is called from another thread whenever there is something new.
    """

    def __init__(
        self,
        cache: Path,
        wake: Callable[[], None],
        timeout: float = 180.0,
        begin: Begin | None = None,
        lacks: Lacks | None = None,
    ) -> None:
        """`begin` starts the preflight's process: by default a child process."""
        self._begin = begin or begin_child
        self._lacks = lacks or Lacks(cache)
        self._cache = cache
        self._wake = wake
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "preflight")
        self._known: dict[str, tuple[PreflightVerdict, float]] = {}
        self._pending: set[str] = set()
        self._troubles: dict[str, Trouble] = {}
        self._running: PreflightProcess | None = None
        self.answers = 0
        """How many verdicts were written."""
        self._closed = False

    def ask(self, asked: PreflightQuestion, since: float = 0.0) -> None:
        """Begin to ask, unless that is going on or has been answered since then.

        Raises Retryable if it failed lately."""
        key = key_of(asked)
        with self._lock:
            trouble = self._troubles.get(key)
            if trouble and not trouble.is_due:
                raise Retryable(str(trouble.error))
            if self._closed or key in self._pending or self._load(key, since):
                return
            try:
                self._pool.submit(self._work, key, asked)
            except RuntimeError as error:
                raise Retryable(f"preflight cannot begin: {error}; raise TasksMax of the daemon") from None
            self._pending.add(key)

    def result(self, key: str, since: float = 0.0) -> PreflightVerdict | None:
        """The engine's verdict, if it has given one since then."""
        with self._lock:
            return self._load(key, since)

    def trouble(self, key: str) -> Trouble | None:
        """Why there is no verdict, if it was asked for in vain."""
        with self._lock:
            return self._troubles.get(key)

    def keep(self, keys: Collection[str], asked: Iterable[PreflightQuestion]) -> None:
        """Forget all other verdicts, and engines. What cannot be deleted is deleted another time."""
        self._lacks.keep({engine_parts(each.python, each.image) for each in asked})
        with self._lock:
            self._known = {key: verdict for key, verdict in self._known.items() if key in keys}
            self._troubles = {key: trouble for key, trouble in self._troubles.items() if key in keys}
            kept = {f"{key}.json" for key in {*keys, *self._pending}}
        for path in self._cache.glob("*"):
            # As it is called, or while it is written.
            name = path.name.removeprefix(".").removesuffix(".new")
            if name not in kept and name.endswith((".json", ".partial")) and not is_file_of_lacks(name):
                with contextlib.suppress(OSError):
                    path.unlink()

    def pending(self) -> frozenset[str]:
        """Keys that are being asked about, or wait for it."""
        with self._lock:
            return frozenset(self._pending)

    def close(self) -> None:
        """Give up what is being asked."""
        with self._lock:
            self._closed = True
            if self._running:
                self._running.end()
        self._pool.shutdown(cancel_futures=True)

    def _work(self, key: str, asked: PreflightQuestion) -> None:
        try:
            answer = self._run(asked)
        except NoVerdict as error:
            self._fail(key, error)
        except Retryable as error:
            self._fail(key, NoVerdict(str(error)))
        except Exception as error:
            # A question that stays open forever would keep its commit waiting, in silence.
            log.exception("preflight_raised")
            self._fail(key, NoVerdict(f"preflight failed: {unexpected(error)}"))
        else:
            _write(self._cache / f"{key}.json", answer)
            verdict = read_verdict(answer)
            self._lacks.note(engine_parts(asked.python, asked.image), frozenset(verdict.lacks))
            self._finish(key, verdict)
        self._wake()

    def _finish(self, key: str, verdict: PreflightVerdict) -> None:
        with self._lock:
            self._pending.discard(key)
            self._troubles.pop(key, None)
            self._known[key] = (verdict, time.time())
            self.answers += 1

    def _fail(self, key: str, error: NoVerdict) -> None:
        with self._lock:
            self._pending.discard(key)
            before = self._troubles.get(key)
            count = before.count + 1 if before else 1
            due = time.monotonic() + backoff(count, _FIRST_PAUSE, _LONGEST_PAUSE)
            self._troubles[key] = Trouble(error, due, count)

    def _run(self, asked: PreflightQuestion) -> dict[str, Any]:
        """One process from start to end. Raises Retryable."""
        request = request_of(asked)
        with contextlib.ExitStack() as stack:
            with self._lock:
                if self._closed:
                    raise Retryable("preflight was given up: the daemon is ending")
                inquiry = self._running = self._begin(asked, self._timeout)
            process = stack.enter_context(inquiry.process)
            stack.callback(inquiry.end)
            try:
                output, errors = exchange(process, request, self._timeout)
            except subprocess.TimeoutExpired:
                raise Retryable(f"preflight with {asked.engine} took longer than {self._timeout:g} s") from None
            except TooMuchError:
                much = f"it printed more than {LONGEST >> 20} MiB, and was ended; is it code that comes with the model?"
                raise Retryable(f"preflight with {asked.engine} is not possible: {much}") from None
            finally:
                with self._lock:
                    self._running = None
        return _read_answer(asked, process.returncode, output, errors, inquiry.log)

    def _load(self, key: str, since: float) -> PreflightVerdict | None:
        if key not in self._known:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                path = self._cache / f"{key}.json"
                self._known[key] = (read_verdict(json.loads(path.read_bytes())), path.stat().st_mtime)
        verdict, at = self._known.get(key, (None, 0.0))
        return verdict if at >= since or since > time.time() + _CLOCK_ERROR else None


# ---------------------------------------------------------------- the process


def request_of(asked: PreflightQuestion, absent: Sequence[str] = ()) -> bytes:
    """What the probe reads. `absent` are folders of the container that are not there while it is asked."""
    paths = {} if asked.mounted else dict(asked.paths)
    ours = {"added": ADDED, "dispensable": sorted(DISPENSABLE), "oldest": OLDEST_VLLM}
    files = {path: base64.b64encode(data).decode() for path, data in asked.files.items()}
    what = {"argv": texts(asked.argv), "paths": paths, "files": files, "variables": sorted(asked.given)}
    return json.dumps({**what, **ours, "absent": list(absent)}).encode()


def begin_child(asked: PreflightQuestion, _seconds: float) -> PreflightProcess:
    """A process of our own user, in a group of its own. Raises Retryable."""
    pipe = subprocess.PIPE
    command = [str(asked.python), str(SCRIPTS[0])]
    try:
        Path(asked.env["HOME"]).mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(asked.env), cwd="/", start_new_session=True
        )
    except OSError as error:
        raise Retryable(f"preflight cannot run {asked.python}: {error.strerror}; check engines[].python") from None
    # What serves comes first: when memory or time gets short, this is what has to wait or go.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
    # Looking at a model may start helpers.
    return PreflightProcess(process, partial(kill_group, process))


def _read_answer(asked: PreflightQuestion, code: int, output: bytes, errors: bytes, log: str) -> dict[str, Any]:
    """Raises NoVerdict."""
    answer: dict[str, Any] = {}
    try:
        answer = dict(json.loads(output))
        reason = str(answer.get("environment") or "")
        if not reason:
            read_verdict(answer)
            return answer
    except (ValueError, KeyError, TypeError):
        lines = errors.decode(errors="replace").strip().splitlines()
        tail = fatal_reason(lines) or next((each for each in lines if "rror" in each), "") or "".join(lines[-1:])
        reason = f"it ended with {code} and no result" + (tail and f": {cut(tail)}") + (log and f"; {log}")
        answer = {}
    variable = str(answer.get("variable") or "") or variable_in(reason, asked.env)
    index, final = answer.get("index"), answer.get("final") is True
    text = f"preflight with {asked.engine} is not possible: {reason}"
    raise NoVerdict(text, variable, final, index if type(index) is int else None)


def _write(path: Path, answer: dict[str, Any]) -> None:
    """A verdict that cannot be kept is only asked for again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another user may only read, and need not start another preflight.
        write_atomically(path, json.dumps(answer).encode(), 0o644)


# ---------------------------------------------------------------- keys


def key_of(asked: PreflightQuestion) -> str:
    """Equal keys, equal verdicts: the engine and its version, arguments, environment, the model's and mounted files.

    Ports and this host's paths to models and caches are outside of it.
    """
    home = asked.env.get("HOME") or "~"
    env = {n: value.replace(home, "~") for n, value in asked.env.items() if n not in ("HOME", "TMPDIR", "PATH")}
    for mount, local in asked.paths.items():
        env = {name: value.replace(local, mount) for name, value in env.items()}
    models = {mount: _model_digest(local) for mount, local in asked.paths.items()}
    parts = [
        *engine_parts(asked.python, asked.image),
        texts(asked.argv),
        sorted(env.items()),
        sorted(asked.given),
        sorted(models.items()),
        *(sorted((path, hashlib.sha256(data).hexdigest()) for path, data in asked.files.items())),
    ]
    return hashlib.sha256(json.dumps([*parts, _PROBE]).encode()).hexdigest()[:32]


def key_of_model(asked: PreflightQuestion) -> str:
    """The same for engine and model alone, whatever the arguments."""
    models = sorted((mount, _model_digest(local)) for mount, local in asked.paths.items())
    return hashlib.sha256(json.dumps([*engine_parts(asked.python, asked.image), models]).encode()).hexdigest()[:32]


def engine_parts(python: Path, image: str) -> tuple[str, str]:
    """Which engine it is; an image's ID says all of what is in it."""
    return str(python), image or engine_version(python)


def engine_version(python: Path) -> str:
    """Which vLLM an interpreter has, from the file system alone: names and times of its distributions. Empty: none."""
    home = os.path.dirname(os.path.dirname(python))
    if not os.path.exists(f"{home}/pyvenv.cfg"):
        home = str(python.resolve().parent.parent)
    folders = _site_folders(home, _mtime(f"{home}/lib"))
    return " ".join(found for folder in folders for found in _distributions(folder, _mtime(folder)))


# Asked for every service in every pass, so texts and no Paths; whatever changes, changes a folder's time.
@functools.lru_cache
def _site_folders(home: str, _mtime: int) -> tuple[str, ...]:
    names = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
    return tuple(str(folder) for name in names for folder in sorted(Path(home).glob(name)))


@functools.lru_cache
def _distributions(folder: str, _mtime_of_folder: int) -> tuple[str, ...]:
    return tuple(sorted(f"{path.name} {_mtime(str(path))}" for path in Path(folder).glob("vllm*.dist-info")))


def _model_digest(folder: str) -> str:
    """What the check against the model may read: config.json byte by byte, the other files by name and size."""
    times = (_mtime(folder), _mtime(f"{folder}/config.json"))
    return _model_digest_at(folder, times) if times[0] else "missing"


@functools.lru_cache(4096)
def _model_digest_at(folder: str, _times: tuple[int, int]) -> str:
    names, config = [(os.path.basename(folder), 0)], b""
    with contextlib.suppress(OSError):
        names = sorted((entry.name, entry.stat().st_size) for entry in os.scandir(folder))
        with open_regular(f"{folder}/config.json") as file:
            config = file.read(_LONGEST_CONFIG)
    return hashlib.sha256(json.dumps(names).encode() + config).hexdigest()


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


_PROBE = hashlib.sha256(b"".join(path.read_bytes() for path in SCRIPTS)).hexdigest()
