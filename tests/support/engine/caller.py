"""The caller's side of the preloaded interpreter: behaves as `python ARGUMENT…` would, run by the zygote.

Started as `caller.py SOCKET ARGUMENT…`. Only the standard library, and little of it: this is paid on every start.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys

NOBODY_LISTENS = 75
ZYGOTE_DIED = 70
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def connect(path: str) -> socket.socket:
    """Reach the zygote. The folder goes by descriptor because a socket's path may have only 107 bytes."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)
    return connection


def send(connection: socket.socket, message: object, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message as a line of JSON, with open files if any."""
    data = json.dumps(message).encode() + b"\n"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([data[:1]], rights)
    connection.sendall(data[1:])


def receive(connection: socket.socket) -> tuple[dict | None, list[int]]:
    """Wait for one message; None when the other side has gone."""
    data, descriptors = b"", array.array("i")
    while not data.endswith(b"\n"):
        part, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_LEN(3 * descriptors.itemsize))
        if not part:
            return None, list(descriptors)
        data += part
        for _, kind, rights in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(rights)
    return json.loads(data), list(descriptors)


def call(path: str, arguments: list[str]) -> int:
    """Have the zygote run `python ARGUMENT…` with our streams, environment and folder; return its exit status."""
    try:
        connection = connect(path)
    except OSError as error:
        print(f"no preloaded interpreter listens at {path}: {error.strerror}", file=sys.stderr)
        return NOBODY_LISTENS
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: connection.sendall(b"%d\n" % number))
    umask = os.umask(0o077)
    os.umask(umask)
    request = {
        "arguments": arguments,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": umask,
        "caller": os.getpid(),
    }
    send(connection, {"do": "run", **request}, (0, 1, 2))
    answer, _ = receive(connection)
    if answer is None:
        print("the preloaded interpreter died", file=sys.stderr)
        return ZYGOTE_DIED
    return end_alike(answer["status"])


def end_alike(status: int) -> int:
    """The exit code of a wait status; does not return when a signal ended the program."""
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(call(sys.argv[1], sys.argv[2:]))
