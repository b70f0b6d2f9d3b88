"""A preloaded interpreter: imports vLLM once, then forks itself for every caller: two seconds instead of forty.

Started as `zygote.py SOCKET MODULES MODEL` by the interpreter that has vLLM. MODULES is the list of modules to import
ahead; when the file is missing it is learned from a real server that answers real requests with MODEL.

What runs in the fork is vLLM's unmodified server. It differs from the stock entry point in three things: one more
process (the caller), one less (no separate worker), and a session of its own, so that a signal to the caller's process
group reaches it only through the caller. When the caller dies, the zygote kills all that belongs to it at once.

A caller in a machine of its own (see tests/machines), or in the sandbox of a unit, gets a fork that has joined it
there: its files, its processes, its cgroup, its user.

It ends by itself a few seconds after the last holder has let go of it (see `hold` in fixtures.py).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types
import urllib.request
from typing import NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caller import receive, send

API_SERVER = "vllm.entrypoints.openai.api_server"
GRACE = 5.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Become(Exception):
    """Raised in a fork, to leave the zygote's loop before the caller's program runs."""

    def __init__(self, request: dict, descriptors: list[int], peer: Peer | None = None) -> None:
        self.request = request
        self.descriptors = descriptors
        self.peer = peer


class Peer:
    """Who called, as seen from here: it may be a process of a machine, in a sandbox of systemd."""

    def __init__(self, pid: int, user: int, group: int) -> None:
        self.pid = pid
        self.user = user
        self.group = group

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        return cls(*struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))

    def is_elsewhere(self) -> bool:
        """Does it see other files than we do?"""
        return os.readlink(f"/proc/{self.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")

    def cgroup(self) -> str | None:
        """The file that takes processes into its cgroup."""
        with open(f"/proc/{self.pid}/cgroup") as file:
            for line in file:
                hierarchy, _, path = line.rstrip("\n").split(":", 2)
                for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
                    procs = f"{root}{path}/cgroup.procs"
                    if hierarchy == "0" and os.path.exists(procs):
                        return procs
        return None

    def join(self) -> None:
        """Be where it is, and who it is. Returns in a child that sees its processes; we pass on signals and the end."""
        spaces = [f"/proc/{self.pid}/ns/{name}" for name in ("cgroup", "uts", "ipc", "net", "pid", "mnt")]
        handles = [os.open(path, os.O_RDONLY) for path in spaces if os.readlink(path) != os.readlink(own(path))]
        procs = self.cgroup()
        group = os.open(procs, os.O_WRONLY) if procs else None
        for handle in handles:
            if LIBC.setns(handle, 0):
                raise OSError(ctypes.get_errno(), "setns")
            os.close(handle)
        child = os.fork()
        if child:
            pass_on(child)
        if group is not None:
            os.write(group, b"0")
            os.close(group)
        self.take_user()
        # After a change of user nothing is left of what was asked before.
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def take_user(self) -> None:
        """Nobody gets more rights from us than he has."""
        if self.user != os.geteuid():
            os.setgroups([self.group])
            os.setgid(self.group)
            os.setuid(self.user)


def own(space: str) -> str:
    return f"/proc/self/ns/{os.path.basename(space)}"


def pass_on(child: int) -> NoReturn:
    """Stand for a child in another namespace: signals go to it, its end becomes ours."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


# ---------------------------------------------------------------- the loop


class Zygote:
    """Forks on request, watches its forks and their callers."""

    def __init__(self, listener: socket.socket) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = listener
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.holders: set[socket.socket] = set()
        self.callers: dict[int, socket.socket] = {}
        self.caller_pids: dict[int, int] = {}

    def run(self) -> None:
        """Serve until nobody holds us any more. Raises Become in every fork."""
        while True:
            ready = self.selector.select(None if self.holders else GRACE)
            if not ready and not self.holders:
                return
            for key, _ in ready:
                key.data(key.fileobj)

    def accept(self, _: object) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        try:
            request, descriptors = receive(connection)
        except (OSError, ValueError):
            request, descriptors = None, []
        connection.settimeout(None)
        if request is None:
            connection.close()
        elif request["do"] == "hold":
            self.holders.add(connection)
            self.selector.register(connection, selectors.EVENT_READ, self.release)
            send(connection, {"pid": os.getpid()})
        elif request["do"] == "processes":
            send(connection, {"pids": self.processes(request["caller"])})
            connection.close()
        else:
            self.fork(connection, request, descriptors)

    def fork(self, connection: socket.socket, request: dict, descriptors: list[int]) -> None:
        peer = Peer.of(connection)
        pid = os.fork()
        if pid == 0:
            # The copies would keep other callers from noticing that the zygote died.
            for key in list(self.selector.get_map().values()):
                close(key.fileobj)
            self.selector.close()
            connection.close()
            raise Become(request, descriptors, peer)
        for descriptor in descriptors:
            os.close(descriptor)
        self.callers[pid] = connection
        self.caller_pids[pid] = peer.pid
        self.selector.register(connection, selectors.EVENT_READ, lambda _: self.listen_to_caller(pid))
        self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, lambda fd: self.reap(pid, fd))

    def listen_to_caller(self, pid: int) -> None:
        """A signal to pass on, or the end of the caller: then nothing of its program may live on."""
        connection = self.callers.get(pid)
        if connection is None:
            # Both ended at once, and the end of the program was seen first.
            return
        try:
            words = connection.recv(1024).split()
        except OSError:
            words = []
        for word in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, int(word))
        if not words:
            self.selector.unregister(connection)
            kill_session(pid, signal.SIGKILL)

    def reap(self, pid: int, pidfd: int) -> None:
        self.selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        # The caller's process group does not reach what the program left behind, so nobody else would end it.
        kill_session(pid, signal.SIGTERM if os.WIFEXITED(status) else signal.SIGKILL)
        connection = self.callers.pop(pid)
        del self.caller_pids[pid]
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            send(connection, {"status": status})
        connection.close()

    def release(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        self.holders.discard(connection)
        connection.close()

    def processes(self, caller: int) -> list[int]:
        return [p for pid, owner in self.caller_pids.items() if owner == caller for p in session_members(pid)]


def close(thing: object) -> None:
    os.close(thing) if isinstance(thing, int) else thing.close()


def session_members(session: int) -> list[int]:
    """Every process of a session, its leader first."""
    members = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(name))
    return sorted(members, key=lambda pid: (pid != session, pid))


def kill_session(session: int, number: int) -> None:
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# ---------------------------------------------------------------- in the fork


def become(request: dict, descriptors: list[int], cache: str, peer: Peer | None) -> None:
    """Turn this fork into what the caller asked for; returns or raises as a fresh interpreter's main program does.

    vLLM looks at each model class in a fresh interpreter, 8 s, and keeps what it saw in `cache`: shared by all tests.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if elsewhere := peer is not None and peer.is_elsewhere():
        peer.join()
    elif peer is not None:
        peer.take_user()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    for descriptor in descriptors:
        if descriptor > 2:
            os.close(descriptor)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    # One process less to start; the server that answers is the same.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not elsewhere:
        os.environ.setdefault("VLLM_CACHE_ROOT", cache)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    random.seed()
    run_as_python(request["arguments"])


def run_to_the_end(wanted: Become, cache: str) -> NoReturn:
    """End as an interpreter ends, but leave taking apart a thousand modules, 0.6 s, to the kernel."""
    code = 0
    try:
        become(wanted.request, wanted.descriptors, cache, wanted.peer)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def run_as_python(arguments: list[str]) -> None:
    """Do what `python ARGUMENT…` does: -m, -c, a script, or standard input; options for the interpreter are ignored."""
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        at = next((i for i, letter in enumerate(word) if letter in "cmXW"), None)
        if word in ("-V", "--version"):
            print(f"Python {sys.version.split()[0]}")
            return
        if at is None or word.startswith("--"):
            continue
        value = word[at + 1 :] or rest.pop(0)
        if word[at] == "m":
            run_module(value, rest)
            return
        if word[at] == "c":
            run_code(value, "<string>", ["-c", *rest])
            return
    if rest and rest[0] != "-":
        sys.argv[:] = rest
        sys.path[0] = os.path.dirname(os.path.abspath(rest[0]))
        runpy.run_path(rest[0], run_name="__main__")
    else:
        run_code(sys.stdin.read(), "<stdin>", rest or [""])


def run_module(name: str, rest: list[str]) -> None:
    sys.argv[:] = [name, *rest]
    sys.path[0] = os.getcwd()
    if name == API_SERVER and not any(word.startswith("--distributed-executor-backend") for word in rest):
        sys.argv += ["--distributed-executor-backend", "uni"]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_code(code: str, name: str, argv: list[str]) -> None:
    sys.argv[:] = argv
    sys.path[0] = ""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, name, "exec"), vars(main))


# ---------------------------------------------------------------- getting ready


def load_vllm() -> None:
    """Import the server. Its engine must be forked as well: a spawned one would import everything again."""
    importlib.import_module(API_SERVER)
    fork = multiprocessing.get_context("fork")
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and "get_mp_context" in vars(module):
            module.get_mp_context = lambda: fork


def preload(names: list[str]) -> None:
    for name in names:
        # What cannot be imported here would not have been in the list; another machine's list may be stale.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    # `-m` must run it afresh, without runpy's warning.
    sys.modules.pop(API_SERVER, None)


def learn(path: str, model: str) -> list[str]:
    """Start a server, have it answer, and note every module that its processes then have."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = f"{path}.{os.getpid()}"
    os.mkdir(folder)
    pid = os.fork()
    if pid == 0:
        note_modules_in(folder)
        os.register_at_fork(after_in_child=lambda: note_modules_in(folder))
        serve = [
            "-m",
            API_SERVER,
            "--model",
            model,
            "--served-model-name",
            "tiny",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        small = ["--enforce-eager", "--max-model-len", "256", "--kv-cache-memory-bytes", "33554432"]
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        raise Become({"arguments": [*serve, *small], "env": env, "cwd": "/", "umask": 0o022, "caller": 0}, [])
    try:
        wait_until(lambda: ask_for_everything(port), pid)
        open(f"{folder}/now", "w").close()
        wait_until(lambda: any(name.endswith(".txt") for name in os.listdir(folder)), pid)
        time.sleep(2)
    finally:
        kill_session(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    names = set()
    for name in os.listdir(folder):
        with open(f"{folder}/{name}") as file:
            names.update(file.read().split())
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)
    with open(folder + ".new", "w") as file:
        file.write("\n".join(sorted(names)))
    os.rename(folder + ".new", path)
    return sorted(names)


def note_modules_in(folder: str) -> None:
    """Write this process's modules into the folder as soon as the file `now` is there."""

    def watch() -> None:
        while not os.path.exists(f"{folder}/now"):
            time.sleep(0.2)
        names = [name for name in list(sys.modules) if not name.startswith(("__", "transformers_modules"))]
        with open(f"{folder}/{os.getpid()}.part", "w") as file:
            file.write("\n".join(names))
        os.rename(file.name, f"{folder}/{os.getpid()}.txt")

    threading.Thread(target=watch, daemon=True).start()


def wait_until(condition: object, pid: int, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            raise SystemExit("the server that shows what to preload ended before it answered")
        time.sleep(0.2)
    raise SystemExit("the server that shows what to preload did not answer in time")


def ask_for_everything(port: int) -> bool:
    """Make the kinds of requests that tests make. False while the server is not ready."""
    message = {"model": "tiny", "max_tokens": 2}
    chat = {"messages": [{"role": "user", "content": "hello"}], **message}
    try:
        for path, body in (("completions", {"prompt": "hello", **message}), ("chat/completions", chat)):
            for stream in (False, True):
                data = json.dumps({**body, "stream": stream}).encode()
                url = f"http://127.0.0.1:{port}/v1/{path}"
                request = urllib.request.Request(url, data, {"content-type": "application/json"})
                urllib.request.urlopen(request, timeout=60).read()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read()
    except OSError as error:
        if getattr(error, "code", None):
            raise SystemExit(f"the server that shows what to preload answered {error}") from error
        return False
    return True


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    os.close(folder)
    os.chmod(path, 0o666)
    listener.listen(64)
    return listener


def main(path: str, modules: str, model: str) -> None:
    load_vllm()
    try:
        with open(modules) as file:
            names = file.read().split()
    except FileNotFoundError:
        names = learn(modules, model)
    preload(names)
    gc.collect()
    gc.freeze()
    zygote = Zygote(listen(path))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening, {len(os.listdir('/proc/self/task'))} threads", flush=True)
    home = os.getpid()
    try:
        zygote.run()
    finally:
        if os.getpid() == home:
            for pid in zygote.callers:
                kill_session(pid, signal.SIGKILL)
            os.unlink(path)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
        sys.exit(0)
    except Become as raised:
        wanted = raised
    # Outside of the handler, so that a traceback does not begin with ours.
    run_to_the_end(wanted, f"{os.path.dirname(sys.argv[2])}/vllm-cache")
