"""One Secret's document → its keys as bytes. Errors never show a value."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from reconciler.kserve.openshift_ai import connection_type
from reconciler.manifests import FieldPath, Manifest
from reconciler.model import Reason, ReasonCode
from reconciler.model.model_sources import shown
from reconciler.secrets.store import WELL_KNOWN, StoredSecret

_BUCKET, _OPEN = "AWS_S3_BUCKET", ("type", "bucket", "cabundle_configmap")
_KEY = re.compile(r"(?!\.\.?$|\.\.)[-._a-zA-Z0-9]{1,253}")


class Unfit(Exception):
    """A Secret that cannot be used; `code` is its reason code, `path` the field to blame."""

    def __init__(self, message: str, path: FieldPath = (), code: ReasonCode = ReasonCode.INVALID_SECRET) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.code = code

    def about(self, manifest: Manifest) -> Reason:
        """The reason, with file and line."""
        return Reason(self.code, f"Secret {manifest.name}: {self.message}", manifest.origin_of(self.path))


def is_plain(document: Mapping[str, Any]) -> bool:
    """Does a Secret hold confidential data that is not encrypted by SOPS?"""
    has_data = bool(document.get("data") or document.get("stringData"))
    return has_data and "sops" not in document and not _is_address(document)


def _is_address(document: Mapping[str, Any]) -> bool:
    """Is it a connection of OpenShift AI that tells where a model is, as a storageUri does, and nothing else?"""
    annotations = document["metadata"].get("annotations")
    if not isinstance(annotations, dict) or connection_type(annotations) != "uri":
        return False
    try:
        data = {key: _decoded(key, value) for key, value in _entries(document, "data")}
        data |= {key: _text(key, value) for key, value in _entries(document, "stringData")}
    except Unfit:
        return False
    uri = data.get("URI", b"").decode("utf-8", "replace")
    return data.keys() == {"URI"} and shown(uri) == uri and not WELL_KNOWN.search(uri)


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its values: names and keys alone, and where a model is, which services need of a Secret."""
    if "sops" not in document and not is_plain(document):
        return dict(document)
    kept = {name: value for name, value in document.items() if name not in ("sops", "data", "stringData")}
    data = {key: _address(key, value) for field in ("data", "stringData") for key, value in _read(document, field)}
    return {**kept, "stringData": data}


def _read(document: Mapping[str, Any], field: str) -> list[tuple[str, bytes]]:
    """Raises Unfit."""
    if "sops" in document:
        return [(key, b"") for key, _ in _entries(document, field)]
    read = _decoded if field == "data" else _text
    return [(key, read(key, value)) for key, value in _entries(document, field)]


def _address(key: str, value: bytes) -> str:
    """What of a value tells where a model is: a bucket's name, or KServe's entry of a bucket without its keys."""
    text = value.decode("utf-8", "replace")
    if key == _BUCKET:
        return text
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    kept = {name: entry[name] for name in _OPEN if isinstance(entry.get(name), str)} if isinstance(entry, dict) else {}
    return json.dumps(kept) if kept else ""


def decode(manifest: Manifest, document: Mapping[str, Any], default_namespace: str) -> StoredSecret:
    """The Secret in `document`: the manifest's content, or what was encrypted in it. Raises Unfit."""
    data = {key: _decoded(key, value) for key, value in _entries(document, "data")}
    text = {key: _text(key, value) for key, value in _entries(document, "stringData")}
    annotations = document["metadata"].get("annotations")
    return StoredSecret(
        namespace=manifest.namespace or default_namespace,
        name=manifest.name,
        origin=manifest.origin,
        data=data | text,
        annotations=_annotations(annotations) if annotations else {},
    )


def _entries(document: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    entries = document.get(field)
    if entries is None:
        return []
    if not isinstance(entries, dict):
        raise Unfit(f"{field} must be a mapping", (field,))
    for key in entries:
        if not _KEY.fullmatch(key):
            raise Unfit(f"{field}: a key holds letters, digits, -, _ and . only, and must not be a path", (field, key))
    return list(entries.items())


def _decoded(key: str, value: Any) -> bytes:
    if value is None:
        return b""
    try:
        # As in a cluster, line ends do not count.
        return base64.b64decode(re.sub(r"[\r\n]", "", value), validate=True)
    except (TypeError, ValueError, binascii.Error):
        text = f"data.{key} is not base64; encode it, or move it to stringData as it is"
        raise Unfit(text, ("data", key)) from None


def _text(key: str, value: Any) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise Unfit(f"stringData.{key} must be text; put it in quotes", ("stringData", key))
    return value.encode()


def _annotations(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise Unfit("metadata.annotations must be a mapping of texts", ("metadata", "annotations"))
    return dict(given)
