"""Listen addresses: what is valid, which two exclude each other, and how clients reach them. Pure."""

from __future__ import annotations

import ipaddress
import re

ANY = ("0.0.0.0", "::")  # noqa: S104
_FORM = re.compile(r"(.*):([0-9]{1,5})", re.ASCII)


def parse_listen(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `[::]:8080` or `:8080` as (IP address, port). Raises ValueError."""
    host, port = split_listen(listen)
    host = {"": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104
    try:
        if port:
            return str(ipaddress.ip_address(host)), port
    except ValueError:
        pass
    raise ValueError(f'"{listen}" is not an IP address with a port from 1 to 65535; write for example 127.0.0.1:8080')


def split_listen(listen: str) -> tuple[str, int]:
    """Host, which may be a name, and port, which may be 0. Raises ValueError."""
    match = _FORM.fullmatch(listen)
    if not match or int(match[2]) > 65535 or re.search(r"\s", match[1]):
        raise ValueError(f'"{listen}" is not an address with a port; write for example 127.0.0.1:8080')
    return match[1].removeprefix("[").removesuffix("]"), int(match[2])


def exclude_each_other(one: str, other: str) -> bool:
    """Can only one of the two be listened on? `[::]` takes IPv4 as well."""
    (first, port), (second, same) = split_listen(one), split_listen(other)
    hosts = {_plain(first), _plain(second)}
    if port != same or not port:
        return False
    return len(hosts) == 1 or "::" in hosts or (ANY[0] in hosts and not any(":" in host for host in hosts))


def reachable(listen: str) -> str:
    """Host and port to connect to from this machine: `0.0.0.0` and `[::]` are not addresses to connect to."""
    host, port = split_listen(listen)
    host = "127.0.0.1" if host in ("", *ANY) else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address({"": ANY[0], "localhost": "127.0.0.1"}.get(host, host)))
    except ValueError:
        return host.lower()
