"""What one value of the config may be: addresses, names of revisions, durations. Every refusal says what to write."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from semantic_version import NpmSpec

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//|/\.|\.lock(?=/|$)|[./]$|^[./]|^$")


def is_ref_name(text: str) -> bool:
    """Would `git check-ref-format refs/heads/TEXT` accept it, and is it no option?"""
    return not _FORBIDDEN.search(text) and not text.startswith("-")


def parse_range(text: str) -> NpmSpec:
    """A range in npm's syntax (`>=1.2.0 <2.0.0`, `1.x`, `^1.4`, `~1.4.2`, `1.2 - 1.4`, `1.x || 3.x`).

    Commas and blanks after an operator are allowed too, because Flux allows them. As with npm, a pre-release is taken
    only when the range names one of the same x.y.z. Raises ValueError.
    """
    try:
        if len(text) > 200 or not all(part.strip() for part in text.split("||")):
            raise ValueError("too long, or nothing between two bars")
        return NpmSpec(_as_npm(text))
    except (ValueError, TypeError, AttributeError, KeyError):
        shown = ascii(text if len(text) <= 80 else text[:79] + "…")
        raise ValueError(f"{shown} is not a range of versions; write for example '>=1.2.0 <2.0.0' or '1.x'") from None


def _as_npm(text: str) -> str:
    text = re.sub(r"~>", "~", text.replace(",", " "))
    return re.sub(r"\s+", " ", re.sub(r"([<>=^~])\s+", r"\1", text)).strip()


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


def is_loopback(listen: str) -> bool:
    """Does only this machine reach it? A name that is no address counts as no."""
    try:
        return ipaddress.ip_address(_plain(split_listen(listen)[0])).is_loopback
    except ValueError:
        return False


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


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TEN_YEARS = 10 * 365 * 86400.0


def parse_duration(value: object) -> float:
    """Seconds of `90`, `90s`, `1.5m`, `2h`, `1d` or `250ms`. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", str(value).strip())
    if not match:
        raise ValueError(f'"{value}" is not a duration; write for example 90s, 5m or 250ms')
    return float(match[1]) * _UNITS[match[2]]


def normalize_path(path: str) -> str:
    """A folder of the repository without needless dots and slashes; `""` is the whole tree. Raises ValueError."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not path.isprintable():
        raise ValueError(f"{path!a} leaves the repository; name folders inside it")
    return "/".join(parts)


def _relative(path: str) -> str:
    if path.startswith("/"):
        raise ValueError(f"{path!a} is absolute; name a folder of the repository, from its root on: hosts/gpu-1")
    return normalize_path(path)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        # A single word is not repeated: it may be the file's secret content, a token for example.
        shown, name = (f'"{path}"', path.name) if "/" in str(path) else ("it", "models")
        raise ValueError(
            f"{shown} is relative, so it would depend on where the daemon is started; write it from the root on: "
            f"/srv/{name or 'models'}"
        )
    if not str(path).isprintable():
        raise ValueError(f"{str(path)!a} holds characters that cannot be printed")
    return path


CREDENTIAL = "credential:"
_CREDENTIAL = re.compile(r"credential:[A-Za-z0-9_.-]{1,200}", re.ASCII)


def _secret_file(text: str) -> str:
    if _CREDENTIAL.fullmatch(text):
        return text
    if text.startswith(CREDENTIAL):
        raise ValueError("the name of a systemd credential has letters, digits, '.', '_' and '-': credential:token")
    return str(_absolute(Path(text)))


def matching(pattern: str, expected: str) -> AfterValidator:
    """Only text that matches a pattern completely; `expected` describes it in errors."""
    form = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(f'"{text}" is not {expected}')
        return text

    return AfterValidator(check)


def _ports(text: str) -> str:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise ValueError(f'"{text}" is not a range of ports from 1 to 65535, the lower first; write 20000-20999')
    return text


def _ip_listen(listen: str) -> str:
    parse_listen(listen)
    return listen


def _any_listen(listen: str) -> str:
    host, _ = split_listen(listen)
    if not host:
        raise ValueError(f'"{listen}" names no host; write for example 127.0.0.1:9464, or 0.0.0.0:9464 for all')
    return listen


def _variables(variables: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name, re.ASCII):
            raise ValueError(f"{name!a} is not the name of a variable; write letters, digits and _: HF_HOME")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a zero character, which no variable can")
    return variables


def _git_name(text: str) -> str:
    if not is_ref_name(text):
        raise ValueError(f"{text[:80]!a} is not a name that git allows; write for example main")
    return text


def _version_range(text: str) -> str:
    parse_range(text)
    return text


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _local_or_remote(url: str) -> str:
    """What else is wrong is found when connecting: see formats/git_address.py."""
    scheme, separator, rest = url.partition("://")
    if not url.strip() or not (separator or url.startswith("/") or ":" in url):
        # It is not repeated: it may hold a password.
        raise ValueError("is neither a URL nor an absolute path; write https://HOST/PATH, USER@HOST:PATH or /PATH")
    if scheme.lower() == "file" and not rest.removeprefix("localhost").startswith("/"):
        raise ValueError("is relative; a file URL has three slashes: file:///srv/models.git")
    return url


Variables = Annotated[dict[str, str], AfterValidator(_variables)]
Folder = Annotated[str, AfterValidator(_relative)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
SecretFile = Annotated[str, AfterValidator(_secret_file)]
"""An absolute path, or `credential:NAME`; `config/secret_files.py` reads it."""
Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=_TEN_YEARS)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]
Limit = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
Percent = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=100)]
Ports = Annotated[str, AfterValidator(_ports)]
Listen = Annotated[str, AfterValidator(_ip_listen)]
WebListen = Annotated[str, AfterValidator(_any_listen)]
Identity = Annotated[
    str, matching(r"[^\s/]+(/[^\s/]+)?", "a user, or a service account: NAMESPACE/NAME; it must not be empty")
]
FieldPaths = tuple[
    Annotated[str, matching(r"[A-Za-z0-9_$-]+([.\[][^\s]+)?", "the path of a field; write for example spec.replicas")],
    ...,
]
Url = Annotated[str, matching(r"https?://[^\s]+", "a URL; write for example http://{name}.{namespace}.svc")]
RepositoryUrl = Annotated[str, AfterValidator(_local_or_remote)]
Quantity = Annotated[
    str,
    matching(
        r"\+?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?", "a quantity; write for example 8, 7500m or 48Gi"
    ),
]
Domain = Annotated[
    str,
    matching(
        r"(?=.{1,200}$)([A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?",
        "a domain; write it without a port, blanks or a wildcard: models.example.com",
    ),
]
NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
TargetName = Annotated[str, matching(NAME, "a name of at most 63 lowercase letters, digits and '-': gpu-1")]
Namespace = Annotated[str, matching(NAME, "a namespace of at most 63 lowercase letters, digits and '-': team-a")]
User = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_-]{0,31}", "the name of a user: reconciler-engine")]
GitUser = Annotated[str, matching(r"[^:\x00-\x1f\x7f]+", "a user name; write it without colons: git")]
Commit = Annotated[str, matching(r"[0-9a-fA-F]{40}", "a commit; write all 40 hexadecimal digits")]
GitName = Annotated[str, AfterValidator(_git_name)]
VersionRange = Annotated[str, AfterValidator(_version_range)]
Image = Annotated[str, matching(r"[^\s]+", "an image or a pattern; write for example vllm/vllm-openai:*")]
VolumeName = Annotated[str, matching(r"[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?", "a name, as in pvc://NAME/…: models")]
GpuId = Annotated[str, matching(r"(?!\d+$)\S+", "the UUID of a GPU or MIG device; `nvidia-smi -L` lists them")]
LabelKey = Annotated[
    str,
    matching(
        r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        "the key of a label; write for example nvidia.com/gpu",
    ),
]
LabelValue = Annotated[
    str,
    matching(
        r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?",
        "the value of a label: at most 63 letters, digits, '-', '_' and '.'",
    ),
]
