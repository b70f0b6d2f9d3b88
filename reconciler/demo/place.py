"""The folder in which the demo lives, and what is made there: the tiny model and the daemon's config."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from reconciler.config.settings import Settings
from reconciler.demo.repository import RemoteRepository
from reconciler.errors import SettingsError, Terminal
from reconciler.host.routing.envoy import EnvoyProxy
from reconciler.state.target_registry import TargetRegistry
from reconciler.system.files import cannot, write_atomically

_TINY_MODEL = Path(__file__).parents[1] / "engines" / "tiny_model.py"
_WEB_FROM = 9464
_PROXY_FROM = 8080


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Everything of one demo, in one folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def repository(self) -> Path:
        return self.folder / "repo.git"

    @property
    def clone(self) -> Path:
        return self.folder / "work"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def pid_file(self) -> Path:
        return self.folder / "daemon.json"

    def settings(self) -> Settings | None:
        """The daemon's settings of an earlier run, or None. Raises SettingsError."""
        return Settings.load(self.config) if self.config.exists() else None


@dataclass(frozen=True, slots=True)
class DemoForge:
    """A repository on a forge that the demo may fill. `kind`: as in the config."""

    remote: RemoteRepository
    kind: str = "auto"

    def settings(self) -> dict[str, object]:
        """The parts of the config that say so."""
        token = {"token_file": str(self.remote.token_file)}
        if self.remote.ca_file:
            token["ca_file"] = str(self.remote.ca_file)
        # No webhook reaches a machine at home.
        source = {"url": self.remote.url, "branch": "main", "interval": "5s", **token}
        return {"source": source, "forge": {"kind": self.kind, **token}}


def demo_forge(url: str | None, token_file: Path | None, ca_file: Path | None, kind: str) -> DemoForge | None:
    """What the options name; None: no forge. Raises SettingsError."""
    if url is None:
        if token_file or ca_file or kind != "auto":
            raise SettingsError("--token-file, --ca-file and --forge-kind are for --forge; name a repository with it")
        return None
    if not url.startswith("https://") or "@" in url:
        raise SettingsError("--forge: expected the https URL of a repository: https://git.example.com/OWNER/NAME")
    if token_file is None:
        raise SettingsError("--forge: needs --token-file: a file with a token that may push and write commit statuses")
    return DemoForge(
        RemoteRepository(url, token_file.absolute(), ca_file=ca_file.absolute() if ca_file else None), kind
    )


def default_folder() -> Path:
    """Under the user's state folder; where there is no home to write to, under the folder for temporary files."""
    state = os.environ.get("XDG_STATE_HOME")
    home = os.environ.get("HOME", "")
    base = Path(state) if state else Path(home) / ".local" / "state" if os.path.isdir(home) else None
    if base and _can_make(base):
        return base / "reconciler-demo"
    return Path(tempfile.gettempdir()) / f"reconciler-demo-{os.getuid()}"


def open_folder(folder: Path) -> DemoFolder:
    """Make the folder, for our eyes only. Raises Terminal."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise Terminal(f"{folder}: belongs to another user; name another folder with --dir")
    except OSError as error:
        raise Terminal(cannot(error, folder, "used", "name another folder with --dir")) from None
    return DemoFolder(folder.absolute())


def find_interpreter(given: Path | None, place: DemoFolder) -> Path:
    """The Python that has vLLM: what was given, what an earlier run used, or our own. Raises SettingsError."""
    if given is not None:
        if not os.access(given, os.X_OK):
            raise SettingsError(f"--python {given}: no such program")
        # Not resolved: a virtual environment is known by the path through which its interpreter is called.
        return Path(os.path.abspath(given))
    known = place.settings()
    before = known.hosts[0].engines[0].python if known and known.hosts[0].engines else None
    if before and os.access(before, os.X_OK):
        return before
    if find_spec("vllm"):
        return Path(sys.executable)
    raise SettingsError(
        "no Python with vLLM is known; name one with --python PATH, or run deploy/demo.sh, which makes one"
    )


def make_model(place: DemoFolder, python: Path) -> bool:
    """Write the tiny model with the workload's interpreter; says whether there was anything to do. Raises Terminal."""
    model = place.models / "tiny"
    if (model / "config.json").exists():
        return False
    partial = place.models / "tiny.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    argv = (str(python), str(_TINY_MODEL), str(partial))
    done = subprocess.run(argv, env=env, cwd=place.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-5:])
        raise Terminal(f"{python} could not make the tiny model; has it vLLM with torch?\n{words}")
    partial.rename(model)
    return True


def write_config(place: DemoFolder, python: Path, port: int | None, forge: DemoForge | None = None) -> Settings:
    """Write the config for a daemon that does not run yet; keeps the ports of an earlier run if it can."""
    known = place.settings()
    proxy = f"127.0.0.1:{port}" if port else kept_listen(known) or _free(_PROXY_FROM)
    web = known.web.listen if known and is_free(known.web.listen) else _free(_WEB_FROM)
    config = _config(place, python, proxy, web)
    if forge:
        config |= forge.settings()
    text = yaml.safe_dump(config, sort_keys=False)
    write_atomically(place.config, b"# Written by `reconciler demo`.\n" + text.encode())
    return Settings.load(place.config)


def kept_listen(known: Settings | None) -> str | None:
    """Where the proxy listened before, unless another process does so now."""
    if known is None:
        return None
    target = known.hosts[0]
    # A daemon that was killed leaves its proxy serving, on purpose.
    is_ours = (
        EnvoyProxy(TargetRegistry(known.state_dir).folder_of(target.name) / "proxy", target.routing).observe().running
    )
    return target.routing.listen if is_ours or is_free(target.routing.listen) else None


def _config(place: DemoFolder, python: Path, proxy: str, web: str) -> dict[str, object]:
    target = {
        "name": "demo",
        "paths": ["runtimes", "demo"],
        "engines": [{"image": "vllm/vllm-openai-cpu:*", "python": str(python)}],
        "volumes": {"models": str(place.models)},
        "gpus": [],
        # Impatient, so that a demo does not take long: 30 s are better where it matters.
        "rollout": {"min_ready": "2s", "drain_timeout": "60s"},
        "routing": {"listen": proxy},
        # A trial as root pushes as root; --dir may be in another user's folder.
        **({"allow_root": True} if os.geteuid() == 0 else {}),
    }
    return {
        "source": {"url": str(place.repository), "branch": "main", "interval": "10s"},
        "targets": [target],
        "state_dir": str(place.folder / "state"),
        # Statuses on commits link to it.
        "web": {"listen": web, "url": f"http://{web}"},
    }


def is_free(address: str) -> bool:
    """Is this port free?"""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def _free(first: int) -> str:
    for port in range(first, first + 200):
        if is_free(f"127.0.0.1:{port}"):
            return f"127.0.0.1:{port}"
    raise Terminal(f"all ports from {first} to {first + 199} are taken; name a free one with --port")


def _can_make(base: Path) -> bool:
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(base, os.W_OK)
