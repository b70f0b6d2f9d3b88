"""Models in S3. Settings mean what they mean to kserve-storage, which reads them from its environment for us."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import urllib3.exceptions
from kserve_storage.kserve_storage import Storage, _parse_patterns_from_env, _should_download

from reconciler.host.staging.download.checksums import Checksum, Nothing, PartByPart, WholeFile
from reconciler.host.staging.download.failures import (
    MOST_FILES,
    DownloadFailed,
    DownloadRefused,
    failure_of_status,
    too_many_files,
)
from reconciler.host.staging.download.transfer import RemoteFile
from reconciler.model import ReasonCode

_CHUNK = 1 << 18
# These stay wrong until they are changed.
_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken"}
)


class S3Source:
    """The objects below one prefix, which ends where a name ends: `llama` is not the beginning of `llama-2`."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._shown = f"s3://{self._bucket}/{self._prefix}"
        with _explained(self._shown):
            self._client: Any = boto3.session.Session().client("s3", **Storage._get_s3_client_kwargs())

    def files(self) -> tuple[RemoteFile, ...]:
        with _explained(self._shown):
            found = self._single() or self._below()
        if not found:
            raise DownloadRefused(ReasonCode.MODEL_NOT_FOUND, f"{self._shown}: no model found there")
        return found

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        with _explained(file.name):
            # It may have been replaced since it was listed; half of each would pass for neither.
            more = {"Range": f"bytes={start}-"} if start else {}
            answer = self._client.get_object(Bucket=self._bucket, Key=file.name, IfMatch=file.tag, **more)
            body = answer["Body"]
            try:
                while data := body.read(_CHUNK):
                    yield data
            finally:
                body.close()

    def checksum(self, file: RemoteFile) -> Checksum:
        with _explained(file.name):
            head = self._client.head_object(Bucket=self._bucket, Key=file.name, ChecksumMode="ENABLED")
        sha256 = head.get("ChecksumSHA256", "")
        if sha256 and "-" not in sha256:
            return WholeFile("sha256", base64.b64decode(sha256))
        tag = file.tag.strip('"')
        if head.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in head:
            # Then an ETag is no md5 of anything that we see.
            return Nothing()
        if "-" not in tag:
            return WholeFile("md5", bytes.fromhex(tag)) if len(tag) == 32 else Nothing()
        return self._part_by_part(file, tag)

    def _part_by_part(self, file: RemoteFile, tag: str) -> Checksum:
        count = int(tag.rpartition("-")[2])
        try:
            first = self._client.head_object(Bucket=self._bucket, Key=file.name, PartNumber=1)["ContentLength"]
        except botocore.exceptions.ClientError:
            return Nothing()
        if not first or math.ceil((file.size or 0) / first) != count:
            # Parts of different lengths: which, no single response shows.
            return Nothing()
        return PartByPart(first, tag)

    def _single(self) -> tuple[RemoteFile, ...]:
        """The URI may name one object."""
        if not self._prefix:
            return ()
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix)
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") in (403, 404):
                # Without the right to list, S3 answers 403 for what is not there.
                return ()
            raise
        name = self._prefix.rsplit("/", 1)[-1]
        size = head["ContentLength"]
        return (RemoteFile(name, self._prefix, size, head["ETag"]),) if size else ()

    def _below(self) -> tuple[RemoteFile, ...]:
        """As kserve-storage does it, empty objects and names of folders are left out."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        found: list[RemoteFile] = []
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for each in page.get("Contents", ()):
                path = each["Key"].removeprefix(prefix).lstrip("/")
                if each["Size"] and not each["Key"].endswith("/") and is_wanted(path):
                    found.append(RemoteFile(path, each["Key"], each["Size"], each["ETag"]))
            if len(found) > MOST_FILES:
                # Before the next page: a server may never come to the last one.
                raise too_many_files(self._shown)
        return tuple(found)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What the library raises as what it means. Raises DownloadFailed."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _answer(error, what) from None
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
        raise DownloadRefused(ReasonCode.ACCESS_DENIED, f"{what}: {error}") from None
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise DownloadFailed(ReasonCode.SOURCE_UNREACHABLE, f"{what}: {error}") from None
    except (ValueError, RuntimeError) as error:
        raise DownloadRefused(ReasonCode.INVALID_STORAGE_SETTINGS, f"{what}: {error}") from None


def _answer(error: botocore.exceptions.ClientError, what: str) -> DownloadFailed:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    if code in _CREDENTIALS:
        return DownloadRefused(ReasonCode.ACCESS_DENIED, f"{what}: {code}; check the credentials")
    if status == 412:
        return DownloadFailed(ReasonCode.SOURCE_CHANGED, f"{what}: it was replaced meanwhile; it is downloaded again")
    if code == "NoSuchBucket":
        return DownloadRefused(ReasonCode.MODEL_NOT_FOUND, f"{what}: no such bucket")
    return failure_of_status(status, what)


def is_wanted(path: str) -> bool:
    """Does a file's path in the model's folder pass the patterns of both variables, as in kserve-storage?"""
    allowed = _parse_patterns_from_env("STORAGE_ALLOW_PATTERNS")
    ignored = _parse_patterns_from_env("STORAGE_IGNORE_PATTERNS")
    return bool(_should_download(path, allowed, ignored))
