"""Models behind an https address whose certificate only the host's own CA vouches for, and in git repositories."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reconciler.model import EnvVar, Fetch, Mount, StorageFile
from tests.host.staging.line import Line
from tests.host.staging.models import Models
from tests.host.staging.test_s3 import MIB, shard
from tests.host.staging.web import FileServer, serve_files
from tests.source.https_server import make_certificate, serve
from tests.support.world import eventually

pytestmark = pytest.mark.slow
BUNDLE = "/etc/ssl/custom-certs"


@dataclass(frozen=True)
class Web:
    """An https server behind a line, and its CA as KServe hands it to the storage initializer."""

    server: FileServer
    line: Line
    ca: Path

    def mount(self, path: str) -> Mount:
        env = (EnvVar("CA_BUNDLE_CONFIGMAP_NAME", "ca"), EnvVar("CA_BUNDLE_VOLUME_MOUNT_POINT", BUNDLE))
        files = (StorageFile(f"{BUNDLE}/cabundle.crt", self.ca.read_text()),)
        return Mount(f"https://127.0.0.1:{self.line.port}{path}", env=env, files=files)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def web(certificate: tuple[Path, Path]) -> Iterator[Web]:
    ca, own = certificate
    with serve_files(own) as server:
        line = Line(server.server_address[1])
        yield Web(server, line, ca)
        line.close()


def packed(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_archive_is_unpacked_and_the_ca_of_a_config_map_is_trusted(web: Web, models: Models) -> None:
    web.server.files["/llama.tar.gz"] = packed({"config.json": b"{}", "shards/0.bin": b"0"})
    mount = web.mount("/llama.tar.gz?version=1")
    assert models.fetch_again(mount).fetch is Fetch.STAGED, models.log(mount)
    assert models.names(mount) == {"config.json", "shards/0.bin"}


def test_certificate_that_nobody_vouches_for_ends_it(web: Web, models: Models) -> None:
    web.server.files["/m.tar.gz"] = packed({"config.json": b"{}"})
    failed = models.wait(models.begin_mount(replace(web.mount("/m.tar.gz"), env=(), files=())))
    assert failed.reason
    assert (failed.fetch, failed.reason.code) == (Fetch.FAILED, "SourceUnreachable")
    assert "certificate" in failed.reason.message.lower()


def test_line_that_breaks_is_gone_on_with_in_the_middle_of_the_file(web: Web, models: Models) -> None:
    web.server.files["/m.tar"] = packed({"config.json": b"{}", "0.bin": shard(1, 6 * MIB)}, "w")
    mount = web.mount("/m.tar")
    web.line.hold_after(4 * MIB)
    models.begin_mount(mount)
    eventually(lambda: models.fetched(mount) > 3 * MIB)
    web.line.cut()
    assert models.wait(mount).fetch is Fetch.FAILED
    web.line.repair()
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    start = int(web.server.asked[-1].removeprefix("bytes=").removesuffix("-"))
    assert start > 3 * MIB
    assert (models.found(mount) / "0.bin").read_bytes() == shard(1, 6 * MIB)


def test_server_without_ranges_is_asked_for_all_of_it_again(web: Web, models: Models) -> None:
    web.server.has_ranges = False
    web.server.files["/m.tar"] = packed({"0.bin": shard(1, 3 * MIB)}, "w")
    mount = web.mount("/m.tar")
    web.line.cut_after(MIB)
    assert models.fetch_again(mount).fetch is Fetch.FAILED
    web.line.repair()
    assert models.fetch_again(mount).fetch is Fetch.STAGED
    assert (models.found(mount) / "0.bin").read_bytes() == shard(1, 3 * MIB)


def test_digest_that_the_server_tells_is_verified(web: Web, models: Models) -> None:
    data = packed({"config.json": b"{}"})
    web.server.files["/m.tar.gz"] = data
    mount = web.mount("/m.tar.gz")
    web.server.tells_digest = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    wrong = models.fetch_again(mount)
    assert wrong.reason
    assert (wrong.fetch, wrong.reason.code) == (Fetch.FAILED, "ChecksumMismatch")
    web.server.tells_digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert models.fetch_again(mount).fetch is Fetch.STAGED


@pytest.mark.parametrize(
    ("status", "fetch", "code"),
    [(404, Fetch.REFUSED, "ModelNotFound"), (401, Fetch.REFUSED, "AccessDenied"), (503, Fetch.FAILED, "SourceFailed")],
)
def test_no_is_told_from_a_failure(web: Web, models: Models, status: int, fetch: Fetch, code: str) -> None:
    web.server.status = status
    answered = models.fetch_again(web.mount("/m.tar.gz"))
    assert answered.reason
    assert (answered.fetch, answered.reason.code) == (fetch, code)


def test_page_that_is_no_model_is_refused(web: Web, models: Models) -> None:
    web.server.files["/llama.zip"] = b"<html>Please log in</html>"
    mount = web.mount("/llama.zip")
    refused = models.fetch_again(mount)
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "InvalidArchive")
    web.server.kind = "text/html"
    refused = models.fetch_again(mount)
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "UnexpectedContentType")


def test_headers_for_a_host_come_from_its_secret(web: Web, models: Models) -> None:
    web.server.token = "let-me-in-please"
    web.server.files["/m.tar.gz"] = packed({"config.json": b"{}"})
    models.put_secret("web", {"headers": json.dumps({"X-Token": web.server.token})})
    plain = web.mount("/m.tar.gz")
    denied = models.fetch_again(plain)
    assert denied.reason
    assert denied.reason.code == "AccessDenied"
    mount = replace(plain, env=(*plain.env, EnvVar("127.0.0.1-headers", source="secret web/headers")))
    assert models.fetch_again(mount).fetch is Fetch.STAGED, models.log(mount)


def test_headers_for_a_host_do_not_follow_to_another_one(
    web: Web, models: Models, certificate: tuple[Path, Path]
) -> None:
    models.put_secret("web", {"headers": json.dumps({"X-Token": "for-the-first-one-only"})})
    mount = web.mount("/m.tar.gz")
    mount = replace(mount, env=(*mount.env, EnvVar("127.0.0.1-headers", source="secret web/headers")))
    with serve_files(certificate[1]) as other:
        other.files["/m.tar.gz"] = packed({"config.json": b"{}"})
        web.server.moved["/m.tar.gz"] = f"https://127.0.0.1:{other.server_address[1]}/m.tar.gz"
        assert models.fetch_again(mount).fetch is Fetch.STAGED, models.log(mount)
        assert set(web.server.tokens) == {"for-the-first-one-only"}
        assert set(other.tokens) == {""}


def test_web_address_leads_to_no_file_of_this_host(web: Web, models: Models, tmp_path: Path) -> None:
    (tmp_path / "m.tar.gz").write_bytes(packed({"config.json": b"{}"}))
    web.server.moved["/m.tar.gz"] = (tmp_path / "m.tar.gz").as_uri()
    assert models.fetch_again(web.mount("/m.tar.gz")).fetch is Fetch.FAILED


def unsafe_tar() -> bytes:
    return packed({"../../evil": b"x"})


def unsafe_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../evil", "x")
    return out.getvalue()


def linking_tar(*links: tuple[str, str]) -> bytes:
    """Symbolic links, each with what it points to, and then a file at the path of the last one's `evil`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, to in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, to
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo(f"{links[-1][0]}/evil"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/m.tar.gz", unsafe_tar()),
        ("/m.zip", unsafe_zip()),
        ("/m.tar.gz", linking_tar(("config.json", "/etc/passwd"))),
        ("/m.tar.gz", linking_tar(("inside", "config"))),
        ("/m.tar.gz", linking_tar(("here", "."), ("above", "here/.."))),
    ],
)
def test_archive_that_would_leave_its_folder_is_refused(web: Web, models: Models, path: str, data: bytes) -> None:
    web.server.files[path] = data
    mount = web.mount(path)
    refused = models.fetch_again(mount)
    assert refused.reason
    assert (refused.fetch, refused.reason.code) == (Fetch.REFUSED, "UnsafePath"), models.log(mount)
    assert not list(models.folder.parent.rglob("evil"))


def test_links_of_an_archive_that_stay_inside_are_kept(web: Web, models: Models) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        file = tarfile.TarInfo("./blobs/0")
        file.size, file.uid, file.mode = 2, 4321, 0o4777
        archive.addfile(file, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("snapshots/main/config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "../../blobs/0"
        archive.addfile(link)
    web.server.files["/m.tar.gz"] = out.getvalue()
    mount = web.mount("/m.tar.gz")
    assert models.fetch_again(mount).fetch is Fetch.STAGED, models.log(mount)
    config = models.found(mount) / "snapshots" / "main" / "config.json"
    assert (config.read_text(), config.stat().st_uid, config.stat().st_mode & 0o7777) == ("{}", os.geteuid(), 0o444)


def test_git_repository_is_fetched_without_its_history(
    certificate: tuple[Path, Path], models: Models, tmp_path: Path
) -> None:
    ca, own = certificate
    source = tmp_path / "repositories" / "llama.git"
    work = tmp_path / "work"
    git("init", "-q", "-b", "main", work)
    (work / "config.json").write_text("{}")
    git("-C", work, "add", ".")
    git("-C", work, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qm", "Add a model")
    git("clone", "-q", "--bare", work, source)
    models.put_secret("git", {"password": "the-password-of-git"})
    with serve(source.parent, "the-password-of-git", own) as server:
        login = (EnvVar("GIT_USERNAME", "tester"), EnvVar("GIT_PASSWORD", source="secret git/password"))
        trusted = (EnvVar("SSL_CERT_FILE", str(ca)),)
        mount = Mount(f"https://127.0.0.1:{server.server_address[1]}/llama.git", env=(*login, *trusted))
        staged = models.fetch_again(mount)
    assert staged.fetch is Fetch.STAGED, (staged, models.log(mount))
    assert models.names(mount) == {"config.json"}


def git(*words: object) -> None:
    subprocess.run(["git", *map(str, words)], check=True, capture_output=True)
