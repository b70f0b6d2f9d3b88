"""Models in S3, from a real S3 server, over a line that fails."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from reconciler.model import EnvVar, Fetch, Mount, StorageFile
from tests.host.staging.fixtures import KEY_ID, S3, SECRET
from tests.host.staging.models import Models
from tests.support.world import eventually, exists

pytestmark = pytest.mark.slow
MIB = 1 << 20


def shard(number: int, size: int = 4 * MIB) -> bytes:
    """Bytes that are everywhere different."""
    block = hashlib.sha256(str(number).encode()).digest()
    return b"".join(hashlib.sha256(block + n.to_bytes(4, "big")).digest() for n in range(size // 32))


def put_model(s3: S3, shards: int = 3) -> int:
    """How many bytes it has."""
    s3.put("llama/config.json", b"{}")
    for number in range(shards):
        s3.put(f"llama/shard-{number}.bin", shard(number))
    return shards * 4 * MIB + 2


def test_prefix_ends_where_a_name_ends(s3: S3, models: Models) -> None:
    s3.put("llama/config.json", b"{}")
    s3.put("llama/shards/0.bin", b"0" * 100)
    s3.put("llama-2/config.json", b'{"other": 1}')
    s3.put("llama/empty", b"")
    mount = models.begin("s3://models/llama", s3.env)
    staged = models.wait(mount)
    assert (staged.fetch, staged.done, staged.total) == (Fetch.STAGED, 102, 102), models.log(mount)
    assert models.names(mount) == {"config.json", "shards/0.bin"}


def test_what_is_staged_is_read_only_and_nothing_else_is_left(s3: S3, models: Models) -> None:
    put_model(s3, 1)
    mount = models.begin("s3://models/llama/", s3.env)
    assert models.wait(mount).fetch is Fetch.STAGED
    found = models.found(mount)
    assert [oct(path.stat().st_mode)[-3:] for path in (found, found / "config.json")] == ["555", "444"]
    assert {path.name for path in found.parent.iterdir()} == {found.name, "lock", "log", "state.json"}


def test_one_object_may_be_an_archive(s3: S3, models: Models) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("weights/config.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    s3.put("llama.tar.gz", packed.getvalue())
    mount = models.begin("s3://models/llama.tar.gz", s3.env)
    assert models.wait(mount).fetch is Fetch.STAGED, models.log(mount)
    assert models.names(mount) == {"weights/config.json"}


def test_program_that_is_killed_goes_on_where_it_was(s3: S3, models: Models) -> None:
    size = put_model(s3)
    s3.line.hold_after(7 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    models.kill(mount, 5 * MIB)
    assert models.stager.find(models.service, mount) is None
    s3.line.repair()
    before = s3.line.sent
    assert models.fetch_again(mount).fetch is Fetch.STAGED, models.log(mount)
    # What was on its way when it died comes once more: a few pieces of each of its connections.
    assert s3.line.sent - before < size - 4 * MIB
    for number in range(3):
        assert (models.found(mount) / f"shard-{number}.bin").read_bytes() == shard(number)


def test_program_outlives_the_daemon_and_the_next_one_adopts_it(s3: S3, models: Models) -> None:
    put_model(s3)
    s3.line.hold_after(5 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    s3.line.wait_until_stopped()
    models.stager.close()
    models.stager, pid = models.open(), models.pid(mount)
    eventually(lambda: models.look(mount).done > 4 * MIB)
    assert models.look(mount).fetch is Fetch.RUNNING
    models.begin_mount(mount)
    assert models.pid(mount) == pid
    models.woken.clear()
    s3.line.repair()
    assert models.wait(mount).fetch is Fetch.STAGED
    assert models.woken.wait(30)


def test_program_that_is_killed_after_the_last_step_fetches_nothing_again(s3: S3, models: Models) -> None:
    put_model(s3, 1)
    mount = models.begin("s3://models/llama", s3.env)
    assert models.wait(mount).fetch is Fetch.STAGED
    (models.folder / models.key(mount) / "state.json").unlink()
    assert models.look(mount).fetch is Fetch.FAILED
    before = s3.line.sent
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert s3.line.sent - before < 100_000


def test_server_that_dies_midway_is_a_passing_failure(s3: S3, models: Models) -> None:
    size = put_model(s3)
    s3.line.hold_after(6 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    # What only lies in the kernel's buffers when a line breaks is lost.
    eventually(lambda: models.fetched(mount) >= 4 * MIB)
    s3.line.cut()
    failed = models.wait(mount)
    assert (failed.fetch, failed.failures) == (Fetch.FAILED, 1)
    assert failed.reason
    assert failed.reason.code == "SourceUnreachable"
    again = models.fetch_again(mount)
    assert (again.fetch, again.failures) == (Fetch.FAILED, 2)
    s3.line.repair()
    before = s3.line.sent
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert s3.line.sent - before < size - 3 * MIB


def test_bytes_that_changed_on_disk_are_noticed_and_fetched_again(s3: S3, models: Models) -> None:
    put_model(s3, 1)
    s3.line.hold_after(3 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    models.kill(mount, 2 * MIB)
    s3.line.repair()
    models.spoil(mount)
    spoilt = models.fetch_again(mount)
    assert spoilt.reason
    assert (spoilt.fetch, spoilt.reason.code) == (Fetch.FAILED, "ChecksumMismatch")
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert (models.found(mount) / "shard-0.bin").read_bytes() == shard(0)


def test_checksum_of_an_upload_in_parts_is_verified_as_well(s3: S3, models: Models) -> None:
    s3.put("big/config.json", b"{}")
    s3.put_in_parts("big/weights.bin", [shard(0, 5 * MIB), shard(1, 5 * MIB), shard(2, MIB)])
    s3.line.hold_after(8 * MIB)
    mount = models.begin("s3://models/big", s3.env)
    models.kill(mount, 2 * MIB)
    s3.line.repair()
    models.spoil(mount)
    spoilt = models.fetch_again(mount)
    assert spoilt.reason
    assert spoilt.reason.code == "ChecksumMismatch"
    assert models.fetch_again(mount).fetch is Fetch.STAGED


def test_object_that_is_replaced_meanwhile_is_fetched_anew(s3: S3, models: Models) -> None:
    put_model(s3, 1)
    s3.line.cut_after(2 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    assert models.wait(mount).fetch is Fetch.FAILED
    s3.line.repair()
    s3.put("llama/shard-0.bin", shard(7))
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert (models.found(mount) / "shard-0.bin").read_bytes() == shard(7)


@pytest.mark.parametrize("uri", ["s3://models/none", "s3://nobodys-bucket/llama"])
def test_model_that_is_not_there_is_refused_with_the_place(s3: S3, models: Models, uri: str) -> None:
    refused = models.fetch(uri, s3.env)
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "ModelNotFound")
    assert uri in refused.reason.message


def test_object_that_would_lie_outside_is_refused(s3: S3, models: Models) -> None:
    s3.put("llama/../../evil", b"x")
    refused = models.fetch("s3://models/llama", s3.env)
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "UnsafePath")


def test_file_that_a_manifest_names_outside_of_its_folder_is_refused(s3: S3, models: Models) -> None:
    evil = StorageFile("/certs/../../../evil", text="x")
    refused = models.fetch("s3://models/llama", s3.env, (evil,))
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "UnsafePath")
    assert not list(models.folder.parent.rglob("evil"))


def test_credentials_are_seen_nowhere(s3: S3, models: Models) -> None:
    put_model(s3)
    stored = {"type": "s3", "endpoint_url": s3.env["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    stored |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    models.put_secret("storage-config", {"mine": json.dumps(stored)})
    s3.line.hold_after(6 * MIB)
    mount = Mount("s3://models/llama", env=(EnvVar("STORAGE_CONFIG", source="secret storage-config/mine"),))
    models.begin_mount(mount)
    s3.line.wait_until_stopped()
    assert exists(models.pid(mount))
    for part in ("cmdline", "environ"):
        for process in Path("/proc").glob("[0-9]*"):
            assert SECRET.encode() not in read(process / part), process
    s3.line.repair()
    assert models.wait(mount).fetch is Fetch.STAGED
    for path in models.folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_wrong_settings_are_refused_without_showing_secrets(s3: S3, models: Models) -> None:
    models.put_secret("s3", {"key": SECRET})
    env = (EnvVar("AWS_ENDPOINT_URL", f"no url but {SECRET}"), EnvVar("AWS_SECRET_ACCESS_KEY", source="secret s3/key"))
    refused = models.wait(models.begin_mount(Mount("s3://models/llama", env=env)))
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "InvalidStorageSettings")
    assert SECRET not in refused.reason.message


def test_files_that_nobody_needs_go_and_what_fetches_them_ends(s3: S3, models: Models) -> None:
    put_model(s3)
    s3.line.hold_after(5 * MIB)
    mount = models.begin("s3://models/llama", s3.env)
    s3.line.wait_until_stopped()
    pid = models.pid(mount)
    (models.folder / "somebody-elses").mkdir()
    models.stager.unstage(models.key(mount))
    assert not exists(pid)
    assert models.stager.look() == {}
    eventually(lambda: [path.name for path in models.folder.iterdir()] == ["somebody-elses"])


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
