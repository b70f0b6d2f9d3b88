"""A model in S3 that only a Secret opens: fetched while the old one serves, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeRig
from tests.storage.fixtures import KEY_ID, S3, SECRET

pytestmark = pytest.mark.e2e
MIB = 1 << 20

SECRET_MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {name: storage-config, namespace: default}
stringData:
  mine: '%s'
"""


def test_the_old_serves_while_the_new_is_fetched_from_a_server_that_dies_midway(
    make_rig: MakeRig, s3: S3, storage_python: Path, tiny_model: Path, tmp_path: Path
):
    s3.put_folder("llama-v1", tiny_model)
    s3.put_folder("llama-v2", tiny_model)
    s3.put("llama-v2/more.bin", bytes(8 * MIB))
    stored = {"type": "s3", "bucket": "models", "endpoint_url": s3.env["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    stored |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "storage.yaml").write_text(SECRET_MANIFEST % json.dumps(stored))
    (secrets / "storage.yaml").chmod(0o600)
    rig = make_rig(target={"storage": {"python": str(storage_python)}, "secrets": {"directory": str(secrets)}})
    source = "storage: {key: mine, path: llama-v1}"
    rig.write({"demo/tiny.yaml": rig.read("demo/tiny.yaml").replace("storageUri: pvc://models/tiny", source)})
    rig.start()
    rig.converge()
    assert rig.serves()
    before = rig.pids()

    s3.line.cut_after(3 * MIB)
    with rig.load(streams=1, posts=1) as load:
        rig.edit("demo/tiny.yaml", "path: llama-v1", "path: llama-v2")
        rig.wait("the download to break", lambda: "failed and will be tried again" in rig.service()["step"])
        assert rig.pids() == before
        s3.line.mend()
        rig.converge()
        rig.wait("the old replica to be gone", lambda: len(rig.records()) == 1)
        tally = load.stop()
    assert tally.lost == 0, str(tally)
    assert tally.refused == 0, str(tally)
    assert not rig.pids() & before

    rig.wait("the old files to be gone", lambda: len(list((rig.folder / "state" / "demo" / "models").iterdir())) == 1)
    for path in (rig.folder / "state").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in rig.words(10_000)
