"""A disk that is full: nothing is lost, the reason is clear, and it goes on once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.model import Fetch
from tests.host.staging.fixtures import S3
from tests.host.staging.models import Models
from tests.host.staging.test_s3 import MIB, put_model, shard

pytestmark = pytest.mark.slow


@pytest.fixture
def models(small_disk: Path, storage_python: Path) -> Iterator[Models]:
    found = Models(small_disk / "models", storage_python)
    yield found
    found.close()


def test_what_does_not_fit_is_not_begun(s3: S3, models: Models, small_disk: Path) -> None:
    put_model(s3)
    (small_disk / "ballast").write_bytes(bytes(14 * MIB))
    mount = models.begin("s3://models/llama", s3.env)
    failed = models.wait(mount)
    assert failed.reason
    assert (failed.fetch, failed.reason.code, failed.done) == (Fetch.FAILED, "DiskFull", 0)
    assert "12.0 MiB are needed and" in failed.reason.message
    (small_disk / "ballast").unlink()
    assert models.fetch_again(mount).fetch is Fetch.STAGED


def test_full_disk_keeps_downloaded_files_and_leaves_room_for_records(s3: S3, models: Models, small_disk: Path) -> None:
    size = put_model(s3)
    s3.line.hold_after(4 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    s3.line.wait_until_stopped()
    (small_disk / "ballast").write_bytes(bytes(15 * MIB))
    s3.line.repair()
    failed = models.wait(mount)
    assert failed.reason
    assert (failed.fetch, failed.reason.code) == (Fetch.FAILED, "DiskFull"), models.log(mount)
    (small_disk / "record").write_bytes(bytes(100_000))
    (small_disk / "ballast").unlink()
    before = s3.line.sent
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert s3.line.sent - before < size - 4 * MIB
    assert (models.found(mount) / "shard-2.bin").read_bytes() == shard(2)
