"""How clients reach a service, as commands to copy. A key is named, never shown. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from reconciler.config.values import is_loopback, reachable, split_listen
from reconciler.report.status import Document

_ANY = ("", "0.0.0.0", "::")  # noqa: S104


def endpoints_document(target: Document, service: Document, workload: Document | None, host: str) -> Document:
    """`ways` in, each with a command; `note` says what to know of all of them. `host` is what this machine is called.

    Of a service that git has no usable version of, it is not known whether it asks for a key or speaks gRPC.
    """
    if target["kind"] == "cluster":
        return {"note": "", "ways": list(_on_cluster(service, workload))}
    note = "The proxy listens on this host alone." if is_loopback(target["listen"]) else ""
    return {"note": note, "ways": list(_on_host(target["listen"], service, workload, host))}


def _on_cluster(service: Document, workload: Document | None) -> Iterator[Document]:
    if service["url"]:
        model = (workload["models"] if workload else []) or [service["name"]]
        command = _completion(f"{service['url'].rstrip('/')}/v1/completions", model[0], _headers(workload))
        yield _way("By KServe's URL", command)


def _on_host(listen: str, service: Document, workload: Document | None, host: str) -> Iterator[Document]:
    known, address = service["endpoints"], _address(listen, host)
    base, name, model = f"http://{address}", known["host"], known["model"]
    if workload is None or workload["http"]:
        headers = _headers(workload)
        yield _way("By model", _completion(f"{base}/v1/completions", model, headers))
        yield _way("By path", _completion(f"{base}{known['path']}/v1/completions", model, headers))
        yield _way("By host name", _completion(f"{base}/v1/completions", model, [f"Host: {name}", *headers]))
    if workload and workload["passthrough"]:
        at, port = split_listen(address)
        where = f"--connect-to {shlex.quote(f'{name}:{port}:{_bracketed(at)}:{port}')}"
        command = _completion(f"https://{name}:{port}/v1/completions", model, _headers(workload), where)
        yield _way("By host name, with TLS to the engine", command)
    if workload and workload["grpc"]:
        yield _way("By gRPC", f"grpcurl -plaintext -authority {name} {address} grpc.health.v1.Health/Check")


def _address(listen: str, host: str) -> str:
    """As others write it; who listens everywhere is called by the host's name."""
    at, port = split_listen(listen)
    return f"{host}:{port}" if at in _ANY else reachable(listen)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _headers(workload: Document | None) -> list[str]:
    return ["Authorization: Bearer $KEY"] if workload and workload["asksForKey"] else []


def _way(name: str, command: str) -> Document:
    return {"name": name, "command": command}


def _completion(url: str, model: str, headers: list[str], more: str = "") -> str:
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 16})
    given = [f"-H {_quoted(each)}" for each in ("Content-Type: application/json", *headers)]
    lines = [f"curl {shlex.quote(url)}", *([more] if more else []), *given, f"-d {shlex.quote(body)}"]
    return " \\\n  ".join(lines)


def _quoted(header: str) -> str:
    """The shell puts the key in."""
    return f'"{header}"' if header.endswith("$KEY") else shlex.quote(header)
