"""Under which host name and URL a service answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.template import Struct, render
from reconciler.kserve.template_syntax import TemplateError, parse

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SIMPLE = "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"


class UrlError(Exception):
    """KServe cannot make a host name; the message is KServe's."""


def host_name(name: str, metadata: Mapping[str, Any], config: Config) -> str:
    """Host name by the domain template. Raises UrlError."""
    ingress = config["ingress"]
    template = ingress.get("domainTemplate") or _SIMPLE
    domain = ingress.get("ingressDomain") or "example.com"
    namespace = metadata.get("namespace", "")
    if template == _SIMPLE:
        host = f"{name}-{namespace}.{domain}"
    else:
        host = _rendered(template, name, namespace, domain, metadata)
    if problem := _domain_problem(host):
        raise UrlError(f'invalid domain name "{host}": url: Invalid value: "{host}": {problem}')
    return host


def _rendered(template: str, name: str, namespace: str, domain: str, metadata: Mapping[str, Any]) -> str:
    data = Struct(
        Name=name,
        Namespace=namespace,
        IngressDomain=domain,
        Annotations=metadata.get("annotations") or {},
        Labels=metadata.get("labels") or {},
    )
    return _filled(template, data, "domain")


def _filled(template: str, data: Struct, what: str) -> str:
    """The executed template. Raises UrlError with Go's message, which names the template, the place and the type."""
    title = f"{what}-template"
    try:
        parse(template)
    except TemplateError as error:
        raise UrlError(f"template: {title}:1: {error}") from None
    try:
        return render(template, data, html=False)
    except TemplateError as error:
        message = str(error)
    if field := re.match(r"can't evaluate field (\w+)", message):
        at = re.search(rf"\.{field[1]}\b", template)
        line, column = _position(template, at.start() if at else 0)
        kind = "ingress.DomainTemplateValues" if what == "domain" else "ingress.PathTemplateValues"
        place = f'template: {title}:{line}:{column}: executing "{title}" at <.{field[1]}>'
        message = f"{place}: {field[0]} in type {kind}"
    raise UrlError(f"error rendering the {what} template: {message}")


def _position(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1)


def service_url(metadata: Mapping[str, Any], config: Config, mode: str = names.STANDARD) -> str:
    """The service's own URL; by the path template in mode Knative, where there is one. Raises UrlError."""
    ingress = config["ingress"]
    scheme = ingress.get("urlScheme") or "http"
    if mode == names.KNATIVE and ingress.get("pathTemplate"):
        path = _path(str(ingress["pathTemplate"]), metadata)
        return f"{scheme}://{ingress.get('ingressDomain') or 'example.com'}{path}"
    return f"{scheme}://{host_name(metadata.get('name', ''), metadata, config)}"


def _path(template: str, metadata: Mapping[str, Any]) -> str:
    data = Struct(Name=metadata.get("name", ""), Namespace=metadata.get("namespace", ""))
    path = _filled(template, data, "url")
    if not path.startswith("/"):
        if "://" in path:
            raise UrlError(f'invalid url path "{path}": contains either a scheme or a host')
        raise UrlError(f'invalid url "{path}": parse "{path}": invalid URI for request')
    return path.partition("?")[0]


def _domain_problem(host: str) -> str:
    """What keeps a text from being a fully qualified domain name; empty when it is one."""
    if not host:
        return "Required value"
    plain = host.removesuffix(".")
    labels = plain.split(".")
    if len(plain) > 253:
        return "must be no more than 253 bytes"
    if not all(_LABEL.fullmatch(label) for label in labels):
        return (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        )
    if len(labels) < 2:
        return "should be a domain with at least two segments separated by dots"
    if any(len(label) > 63 for label in labels):
        return "must be no more than 63 bytes"
    return ""
