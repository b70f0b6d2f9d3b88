"""Which process holds a port."""

from __future__ import annotations

import errno
import socket

from reconciler.system import procfs


def is_free(host: str, port: int) -> bool:
    """Whether we could listen there; on `::`, for both families.

    Raises OSError for an address that is not this host's, or a port that is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def holder_of(port: int) -> str:
    """Who listens on a port, as text; as far as we may see it."""
    for pid in procfs.holders(procfs.listeners().get(port, set())):
        return f"pid {pid} ({procfs.name_of(pid)})"
    return "another process"
