"""A line between a client and a server that can be cut, held and measured: what networks do to downloads."""

from __future__ import annotations

import contextlib
import socket
import threading

_PIECE = 1 << 16


class Line:
    """Forwards TCP from a port of its own. Counts what the server sent to clients."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self.sent = 0
        self._cut_at: int | None = None
        self._hold_at: int | None = None
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int) -> None:
        """After so many more bytes, every connection breaks and no new one is served."""
        with self._changed:
            self._cut_at = self.sent + count

    def hold_after(self, count: int) -> None:
        """After so many more bytes, nothing more comes through, and nothing breaks."""
        with self._changed:
            self._hold_at = self.sent + count

    def cut(self) -> None:
        """Now."""
        with self._changed:
            self._cut_at = self.sent
            self._changed.notify_all()
        self._break()

    def repair(self) -> None:
        """From now on all comes through."""
        with self._changed:
            self._cut_at = self._hold_at = None
            self._changed.notify_all()

    def wait_until_stopped(self, seconds: float = 30) -> None:
        """Until it was cut, or holds something back."""
        with self._changed:
            assert self._changed.wait_for(self._is_stopped, seconds), f"only {self.sent} bytes came by"

    def close(self) -> None:
        self._listener.close()
        self._break()

    def _is_stopped(self) -> bool:
        return any(at is not None and self.sent >= at for at in (self._cut_at, self._hold_at))

    def _is_cut(self) -> bool:
        return self._cut_at is not None and self.sent >= self._cut_at

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut():
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_PIECE):
                server.sendall(data)
        _shut(server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_PIECE):
                with self._changed:
                    limits = [at for at in (self._cut_at, self._hold_at) if at is not None]
                    count = min([len(data), *(max(at - self.sent, 0) for at in limits)])
                    self.sent += count
                    self._changed.notify_all()
                client.sendall(data[:count])
                if count < len(data):
                    if self._is_cut():
                        self._break()
                        return
                    with self._changed:
                        self._changed.wait_for(lambda: self._hold_at is None or self._is_cut())
                        if self._is_cut():
                            return
                        self.sent += len(data) - count
                    client.sendall(data[count:])
        _shut(client)

    def _break(self) -> None:
        for each in list(self._open):
            _shut(each)
        self._open.clear()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
