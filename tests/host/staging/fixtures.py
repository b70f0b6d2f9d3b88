"""Real servers that models are fetched from, and the program that fetches them."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from tests.host.staging.line import Line
from tests.host.staging.models import Models
from tests.support.ports import free_port

KEY_ID, SECRET = "AKIDOFTHETEST", "a-secret-that-nobody-may-see"


@dataclass(frozen=True)
class S3:
    """A real S3 server with the bucket `models`, reached over a line that can fail."""

    port: int
    line: Line

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.line.port}",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            # What fails fails at once: that it is tried again is ours to see to.
            "S3_MAX_ATTEMPTS": "1",
        }

    def call(self, method: str, place: str, data: bytes = b"") -> tuple[bytes, str | None]:
        """Asked directly, and not over the line. Returns the body and the ETag."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            # Paths go out as they are, `..` too. A login has to be there; whether it is right is not looked at.
            login = f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request"
            headers = {"Authorization": f"{login}, SignedHeaders=host, Signature=0"}
            connection.request(method, f"/models{place}", data, headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status < 300, (method, place, answer.status, body)
            return body, answer.headers["ETag"]

    def put(self, key: str, data: bytes) -> None:
        self.call("PUT", f"/{key}", data)

    def put_in_parts(self, key: str, parts: list[bytes]) -> None:
        begun = self.call("POST", f"/{key}?uploads")[0].decode()
        upload = begun.partition("<UploadId>")[2].partition("<")[0]
        listed = ""
        for number, data in enumerate(parts, 1):
            _, etag = self.call("PUT", f"/{key}?partNumber={number}&uploadId={upload}", data)
            listed += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        whole = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        self.call("POST", f"/{key}?uploadId={upload}", whole.encode())

    def list_keys(self) -> list[str]:
        listed = self.call("GET", "?list-type=2")[0].decode()
        return re.findall("<Key>([^<]*)</Key>", listed)

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
    """Its environment is not ours: what it needs and what we need exclude each other."""
    program = Path(os.environ.get("RECONCILER_TEST_S3") or "/nonexistent", "bin", "moto_server")
    if not program.exists():
        pytest.skip("no S3 server: run tests/run.sh once, or set RECONCILER_TEST_S3 to an environment of moto[server]")
    port = free_port()
    command = [program, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            patience = urllib3.Retry(60, backoff_factor=0.1, backoff_max=1.0)
            urllib3.PoolManager(retries=patience).request("GET", f"http://127.0.0.1:{port}/")
            yield port
        finally:
            server.kill()


@pytest.fixture
def s3(s3_server: int) -> Iterator[S3]:
    s3 = S3(s3_server, Line(s3_server))
    s3.call("PUT", "")
    yield s3
    s3.line.close()
    for key in s3.list_keys():
        s3.call("DELETE", f"/{key}")
    s3.call("DELETE", "")


@pytest.fixture
def models(tmp_path: Path, storage_python: Path) -> Iterator[Models]:
    """A host's folder of models."""
    found = Models(tmp_path / "models", storage_python)
    yield found
    found.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)
