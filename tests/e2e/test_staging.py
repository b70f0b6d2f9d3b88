"""A model in S3 that only a Secret opens: fetched while the old one serves, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeRig
from tests.e2e.killing import assert_died_in, go
from tests.e2e.rig import Rig
from tests.host.staging.fixtures import KEY_ID, S3, SECRET

pytestmark = pytest.mark.e2e
MIB = 1 << 20

SECRET_MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {name: storage-config, namespace: default}
stringData:
  mine: '%s'
"""


def follow_s3(rig: Rig, s3: S3, model: Path) -> None:
    """The rig's model comes from S3 in its first version; the second one is larger, and says so by one more file."""
    for version in ("llama-v1", "llama-v2"):
        s3.put_folder(version, model)
    s3.put("llama-v2/more.bin", bytes(8 * MIB))
    stored = {"type": "s3", "bucket": "models", "endpoint_url": s3.env["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    stored |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    secrets = rig.folder / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "storage.yaml").write_text(SECRET_MANIFEST % json.dumps(stored))
    (secrets / "storage.yaml").chmod(0o600)
    rig.target["secrets"] = {"directory": str(secrets)}
    rig.write_config()
    source = "storage: {key: mine, path: llama-v1}"
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("storageUri: pvc://models/tiny", source)})


def ask_for_the_second(rig: Rig) -> None:
    rig.edit("demo/tiny.yaml", "path: llama-v1", "path: llama-v2")


def await_failure(rig: Rig, full: bool) -> None:
    """Until what is fetched failed because the disk is full, or because of the server, and is to be tried again."""

    def failed() -> bool:
        step = rig.service()["step"]
        return "failed and will be retried" in step and ("once there is space" in step) == full

    rig.wait(f"the download to fail, full={full}", failed)


def await_the_second_alone(rig: Rig) -> None:
    rig.converge()
    rig.wait("the old replica to be gone", lambda: len(rig.records()) == 1)


def assert_no_secret_is_kept(rig: Rig) -> None:
    for path in rig.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in rig.words(10_000)


def test_old_serves_while_new_is_fetched_from_server_that_dies_midway(
    make_rig: MakeRig, s3: S3, storage_python: Path, tiny_model: Path
):
    rig = make_rig(target={"storage": {"python": str(storage_python)}})
    follow_s3(rig, s3, tiny_model)
    rig.start()
    rig.converge()
    assert rig.serves()
    before = rig.pids()

    s3.line.cut_after(3 * MIB)
    with rig.load(streams=1, posts=1) as load:
        ask_for_the_second(rig)
        await_failure(rig, full=False)
        assert rig.pids() == before
        s3.line.repair()
        await_the_second_alone(rig)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused == 0, str(tally)
    assert not rig.pids() & before

    rig.wait("the old files to be gone", lambda: len(list((rig.state / "models").iterdir())) == 1)
    assert_no_secret_is_kept(rig)


@pytest.mark.timeout(600)
def test_daemon_killed_at_every_boundary_of_a_download_completes_it(
    make_rig: MakeRig, s3: S3, storage_python: Path, tiny_model: Path
):
    rig = make_rig(target={"storage": {"python": str(storage_python)}}, rollout={"min_ready": "0.2s"})
    follow_s3(rig, s3, tiny_model)
    rig.start()
    rig.converge()

    def is_done() -> bool:
        return rig.is_applied() and len(rig.records()) == len(list((rig.state / "models").iterdir())) == 1

    with rig.load(streams=1, posts=1) as load:
        died = go(rig, lambda: ask_for_the_second(rig), "only the second model to be left", is_done)
        tally = load.stop()
    assert (tally.lost, tally.refused) == (0, 0), str(tally)
    assert_died_in(died, "Stage", "Start", "Remove", "Unstage")
    assert_no_secret_is_kept(rig)
