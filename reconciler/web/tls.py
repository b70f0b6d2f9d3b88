"""The certificate that the daemon's port shows: read again when its files change, without a restart.

Connections that are open keep the one that they began with. Files that cannot be used are logged, and the certificate
that was in use stays.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import structlog

from reconciler.config.secret_files import path_of
from reconciler.config.web import TlsSettings
from reconciler.errors import Retryable, SettingsError
from reconciler.system.files import stamp_of

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
# What TLS 1.2 may use: 1.3 has only such.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Certificate:
    """For one thread."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises SettingsError, which names the file."""
        self._settings = settings
        self._files = _files(settings)
        self._context = load(settings)
        self._looked = time.monotonic()

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look()
        return self._context

    def _look(self) -> None:
        # Before they are read: what comes in between is read the next time.
        files = _files(self._settings)
        if files == self._files:
            return
        self._files = files
        try:
            self._context = load(self._settings)
        except SettingsError as error:
            log.error("tls_certificate_refused", error=str(error), instead="the certificate before it stays in use")
        else:
            log.info("tls_certificate_loaded", certificate=str(self._settings.certificate_file))


def load(settings: TlsSettings) -> ssl.SSLContext:
    """Raises SettingsError, which names the file."""
    certificate, key = settings.certificate_file, _key_file(settings)
    for name, path in (("certificate_file", certificate), ("key_file", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"web.tls.{name}: {path} cannot be read: {error.strerror}") from None
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    found.set_ciphers(_CIPHERS)
    found.set_alpn_protocols(["http/1.1"])
    try:
        found.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = "is not the one of this certificate" if _is_mismatch(error) else f"cannot be used: {_text(error)}"
        raise SettingsError(f"web.tls: {key} with {certificate} {why}; both are PEM, the key not encrypted") from None
    return found


def _key_file(settings: TlsSettings) -> Path:
    try:
        return path_of(settings.key_file, "web.tls.key_file")
    except Retryable as error:
        raise SettingsError(str(error)) from None


def _files(settings: TlsSettings) -> tuple[object, ...]:
    """What differs once one of them was written or replaced."""
    return tuple(stamp_of(path) for path in (settings.certificate_file, _key_file(settings)))


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted")


def _is_mismatch(error: Exception) -> bool:
    return isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"


def _text(error: Exception) -> str:
    """OpenSSL's word for it, where it has one."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def end_of(context: ssl.SSLContext, certificate: Path) -> float:
    """When a certificate ends, in seconds since 1970: what a client is shown that trusts just this one.

    Raises ssl.SSLCertVerificationError for one that clients refuse, because it has ended or is for no server.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(here, there), context.wrap_bio(there, here, server_side=True))
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = ends[0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))
