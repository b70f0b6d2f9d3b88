"""A host's folder of models, driven as a pass drives it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

from reconciler.config.settings import StorageSettings
from reconciler.host.staging.fetcher import FetchProcess
from reconciler.host.staging.stager import Stager
from reconciler.model import EnvVar, Fetch, Mount, Origin, ServiceId, Stage, Staging, StorageFile
from reconciler.model.model_sources import key_of
from reconciler.secrets import SecretStore, StoredSecret
from tests.support.world import eventually, exists

SERVICE = ServiceId("default", "chat")


class Models:
    """One model at a time: `begin`, then `wait`."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.service = SERVICE
        self.folder = folder
        self.python = python
        self._secrets: dict[tuple[str, str], StoredSecret] = {}
        self.woken = threading.Event()
        self.stager = self.open()

    def open(self) -> Stager:
        """Another daemon takes over."""
        fetcher = FetchProcess(self.python)
        stager = Stager(StorageSettings(), self.folder, fetcher, lambda: SecretStore(self._secrets), self.woken.set)
        stager.subscribe()
        return stager

    def put_secret(self, name: str, data: dict[str, str]) -> None:
        place = (SERVICE.namespace, name)
        encoded = {key: value.encode() for key, value in data.items()}
        self._secrets[place] = StoredSecret(*place, Origin("secrets.yaml", 1), encoded)

    def begin(self, uri: str, env: dict[str, str] | None = None, files: tuple[StorageFile, ...] = ()) -> Mount:
        mount = Mount(uri, env=tuple(EnvVar(name, value) for name, value in (env or {}).items()), files=files)
        return self.begin_mount(mount)

    def begin_mount(self, mount: Mount) -> Mount:
        self.stager.stage(Stage(SERVICE, self.key(mount), mount, "test"))
        return mount

    def fetch(self, uri: str, env: dict[str, str] | None = None, files: tuple[StorageFile, ...] = ()) -> Staging:
        return self.wait(self.begin(uri, env, files))

    def fetch_again(self, mount: Mount) -> Staging:
        return self.wait(self.begin_mount(mount))

    def wait(self, mount: Mount) -> Staging:
        """Until it is over, in whatever way."""
        eventually(lambda: self.look(mount).fetch is not Fetch.RUNNING, within=60)
        # It has said so, but may still hold the lock.
        eventually(lambda: not exists(self.pid(mount)))
        return self.look(mount)

    def kill(self, mount: Mount, after: int) -> None:
        """Once so many bytes of it are on disk."""
        eventually(lambda: self.fetched(mount) >= after)
        os.kill(self.pid(mount), signal.SIGKILL)
        eventually(lambda: self.look(mount).fetch is Fetch.FAILED)

    def fetched(self, mount: Mount) -> int:
        """How many bytes of it are on disk."""
        folder = self.folder / self.key(mount)
        sizes = [0]
        for path in (*folder.glob("unfinished/*"), *folder.glob("*.partial/**/*")):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size if path.is_file() else 0)
        return sum(sizes)

    def spoil(self, mount: Mount) -> None:
        """One bit of what was fetched so far is another one."""
        unfinished = self.folder / self.key(mount) / "unfinished"
        with open(max(unfinished.iterdir(), key=lambda path: path.stat().st_size), "r+b") as file:
            byte = file.read(1)
            file.seek(0)
            file.write(bytes([byte[0] ^ 1]))

    def look(self, mount: Mount) -> Staging:
        return self.stager.look()[self.key(mount)]

    def found(self, mount: Mount) -> Path:
        found = self.stager.find(SERVICE, mount)
        assert found is not None, self.look(mount)
        return found

    def names(self, mount: Mount) -> set[str]:
        root = self.found(mount)
        return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}

    def log(self, mount: Mount) -> str:
        return (self.folder / self.key(mount) / "log").read_text()

    def pid(self, mount: Mount) -> int:
        text = (self.folder / self.key(mount) / "lock").read_text()
        return int(text.strip("[").partition(",")[0])

    @staticmethod
    def key(mount: Mount) -> str:
        return key_of(SERVICE.namespace, replace(mount))

    def close(self) -> None:
        self.stager.end_all()
        self.stager.close()
