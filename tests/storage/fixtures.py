"""Real servers that models are fetched from, and the program that fetches them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.storage.line import Line
from tests.storage.models import Models

KEY_ID, SECRET = "AKIDOFTHETEST", "a-secret-that-nobody-may-see"


@dataclass(frozen=True)
class S3:
    """A real S3 server with the bucket `models`, reached over a line that can fail."""

    client: Any
    line: Line

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.line.port}",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket="models", Key=key, Body=data)

    def put_folder(self, prefix: str, folder: Path) -> None:
        for path in folder.iterdir():
            self.put(f"{prefix}/{path.name}", path.read_bytes())


@pytest.fixture(scope="session")
def storage_python() -> Path:
    """The interpreter that has kserve-storage."""
    venv = os.environ.get("RECONCILER_TEST_STORAGE")
    python = Path(venv or "/nonexistent", "bin", "python")
    if not python.exists():
        pytest.skip("no kserve-storage: run tests/run.sh once, or set RECONCILER_TEST_STORAGE to an environment of it")
    subprocess.run([python, "-c", "import kserve_storage"], check=True, timeout=120)
    return python


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    # Late: it is large, and most tests need none.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(s3_server: int) -> Iterator[S3]:
    import boto3

    login = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    resource = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{s3_server}", **login)
    client = resource.meta.client
    client.create_bucket(Bucket="models")
    line = Line(s3_server)
    yield S3(client, line)
    line.close()
    bucket = resource.Bucket("models")
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture
def models(tmp_path: Path, storage_python: Path) -> Iterator[Models]:
    """A host's folder of models."""
    found = Models(tmp_path / "models", storage_python)
    yield found
    found.close()
