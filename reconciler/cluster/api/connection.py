"""How one API server is reached and who we are there: from a kubeconfig, or from the pod's own service account."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.errors import SettingsError
from reconciler.system.files import cannot

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Certificates and tokens are a few kilobytes; a kubeconfig with hundreds of clusters is some hundred.
MAX_FILE_BYTES = 1 << 20
# Tokens of service accounts rotate; client-go reads them as often.
REREAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ClusterConnection:
    """How to reach one cluster.

    Without `kubeconfig`, by the service account of the pod that we run in. `impersonate` is a user, or a service
    account as `namespace/name`. `qps` requests a second, `burst` of them at once; 0 sets no limit. `timeout` is the
    longest time of one call in seconds, with all its retries. `named` is the key of the config that messages name.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    impersonate: str | None = None
    allow_exec: bool = False
    qps: float = 0.0
    burst: int = 0
    timeout: float = 30.0
    named: str = "cluster"


@dataclass(frozen=True, slots=True)
class Tls:
    """What a connection is secured with. Without `authorities` (PEM), the system's are trusted."""

    authorities: str | None = None
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    # Where each of these stands, for messages.
    authorities_at: str = ""
    certificate_at: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and our credentials there, as they were read. `source` names where from, for messages.

    `valid_seconds`: read it again after so long; None, when the server refuses it.
    """

    server: str
    tls: Tls
    source: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = None
    valid_seconds: float | None = None


def read_access(connection: ClusterConnection) -> Access:
    """Read all that a connection names, now. Raises SettingsError, and Retryable for what a moment may repair."""
    # Only here: reading a kubeconfig is a subject of its own.
    from reconciler.cluster.api.kubeconfig import read_kubeconfig

    identity = _impersonation(connection)
    if connection.kubeconfig is None:
        access = _in_cluster(connection)
    else:
        access = read_kubeconfig(connection.kubeconfig, connection)
    headers = {"User-Agent": "reconciler", **access.headers, **identity}
    return Access(access.server, access.tls, access.source, headers, access.proxy, access.valid_seconds)


def _impersonation(connection: ClusterConnection) -> dict[str, str]:
    """The header that makes us somebody else. An empty identity would make us ourselves, who may do more: refused."""
    if (identity := connection.impersonate) is None:
        return {}
    key = f"{connection.named}.impersonate"
    namespace, slash, name = identity.partition("/")
    if not identity.strip() or (slash and not (namespace and name)):
        raise SettingsError(f'{key}: "{identity}" names nobody; write a user, or a service account as namespace/name')
    if slash and "/" in name:
        raise SettingsError(f'{key}: "{identity}" is no service account; write it as namespace/name')
    if not identity.isascii() or not identity.isprintable() or identity != identity.strip():
        raise SettingsError(f"{key}: a name has only printable ASCII characters, and no space around it")
    return {"Impersonate-User": f"system:serviceaccount:{namespace}:{name}" if slash else identity}


def _in_cluster(connection: ClusterConnection) -> Access:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not (host and port):
        raise SettingsError(
            f"{connection.named}.kubeconfig: not set, and this process does not run in a pod of a cluster; "
            "name a kubeconfig file"
        )
    if connection.context is not None:
        raise SettingsError(
            f"{connection.named}.context: the pod's service account has no contexts; set kubeconfig too"
        )
    token = read_token(SERVICE_ACCOUNT / "token", str(SERVICE_ACCOUNT / "token"))
    ca = SERVICE_ACCOUNT / "ca.crt"
    tls = Tls(read_file(ca, str(ca)).decode("ascii", "replace"), authorities_at=str(ca))
    address = f"[{host}]" if ":" in host else host
    return Access(
        f"https://{address}:{port}", tls, "the pod's service account", bearer(token), valid_seconds=REREAD_SECONDS
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def read_token(path: Path, key: str) -> str:
    """A token from its file. Raises SettingsError, without the token."""
    return checked_token(read_file(path, key).decode("ascii", "replace").strip(), key)


def checked_token(token: str, key: str) -> str:
    if not token:
        raise SettingsError(f"{key}: the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{key}: not a token: it has characters that no token has")
    return token


def read_file(path: Path, key: str) -> bytes:
    """A small file that a setting names. Raises SettingsError, which begins with the key."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{key}: {cannot(error, path, 'read', 'see whether it is there and may be read')}"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{key}: {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Raises SettingsError, which names the certificate or key that cannot be used."""
    try:
        context = ssl.create_default_context(cadata=tls.authorities)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{tls.authorities_at}: not a CA certificate in PEM: {_why(error)}") from None
    # As client-go verifies, and most clusters need: any certificate that is given is trusted as it stands, and many CAs
    # that clusters make lack what RFC 5280 asks of them.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate is not None and tls.key is not None:
        _load_certificate(context, tls.certificate + b"\n" + tls.key, tls.certificate_at)
    return context


def _load_certificate(context: ssl.SSLContext, pem: bytes, at: str) -> None:
    """Python's ssl reads certificates from files only: this one is in memory, so that no key lies on a disk."""
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(pem)
        # Without a password, OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise SettingsError(f"{at}: not a certificate with its unencrypted key in PEM: {_why(error)}") from None
    finally:
        os.close(memory)


def _why(error: Exception) -> str:
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
