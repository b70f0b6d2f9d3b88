"""The process that reads revisions: it gets its targets once, then revision after revision. It ends with the daemon.

usage: python -P -m reconciler.evaluation.worker SOCKET LIFELINE
"""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import resource
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from reconciler.build import build_id
from reconciler.config.settings import TargetSettings
from reconciler.errors import NotUnderstood
from reconciler.evaluation.evaluator import Evaluated, Evaluator
from reconciler.evaluation.wire import dump_answers, load_request, receive, send
from reconciler.fault_isolation import frames, named
from reconciler.system.process_limits import be_ended_first, limit_cpu, limit_memory

OUT_OF_MEMORY = 78
# What the daemon says is as long as all manifests together.
_ANY_LENGTH = 1 << 40
_TOLD = 500


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """What a worker gets at its start."""

    targets: tuple[TargetSettings, ...]
    memory_bytes: int
    cpu_seconds: float
    is_sealed: bool = False


def main(words: int, lifeline: int) -> None:
    """Answer until the daemon ends."""
    end_with(lifeline)
    with socket.socket(fileno=words) as told, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        arguments: WorkerArguments = pickle.loads(receive(told, _ANY_LENGTH))  # noqa: S301
        confine(arguments.memory_bytes)
        send(told, build_id().encode())
        try:
            answer(told, arguments)
        except MemoryError:
            # Whatever uses the memory is still here: there may be none left to report it.
            os._exit(OUT_OF_MEMORY)


def end_with(lifeline: int) -> None:
    """Be ended by the kernel once the other end of this pipe is closed, whatever we do, and even while stopped."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.read(lifeline, 1)
        sys.exit("the daemon has ended")


def confine(memory_bytes: int) -> None:
    """If the machine has no memory left, this is the process to end; and no image of it is kept: it knows Secrets."""
    be_ended_first()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory(memory_bytes)


def answer(told: socket.socket, arguments: WorkerArguments) -> None:
    """Each request is a revision; each result is the desired state of all targets, or the error."""
    evaluators = {target.name: Evaluator(target, is_sealed=arguments.is_sealed) for target in arguments.targets}
    before: dict[str, Evaluated] = {}
    # Garbage collection runs while no request is waiting.
    gc.disable()
    while True:
        data = receive(told, _ANY_LENGTH)
        limit_cpu(arguments.cpu_seconds)
        try:
            snapshot = load_request(data)
            now = {name: each.look(snapshot) for name, each in evaluators.items()}
            unread = {each for evaluator in evaluators.values() for each in evaluator.unread()}
            reply = b"+" + dump_answers(now, before, unread)
        except MemoryError:
            raise
        except OSError as error:
            # A disk, or a limit of this host: that says nothing about the revision.
            send(told, b"?" + str(error)[:_TOLD].encode("utf-8", "replace"))
            return
        except NotUnderstood as error:
            # The next one begins with the memory that this one took.
            send(told, b"!" + str(error).encode("utf-8", "replace"))
            return
        except Exception as error:
            with suppress(OSError):
                sys.stderr.write(f"{named(error)}\n{frames(error)}")
            send(told, b"-" + named(error)[:_TOLD].encode("utf-8", "replace"))
            return
        send(told, reply)
        before = now
        del data, snapshot, now, reply
        gc.collect()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
