"""A rig whose daemon runs in a machine, and whose replicas are units there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from reconciler.host.staging.fetcher import USER as FETCHER
from reconciler.host.workload import place_of
from tests.e2e.rig import CRASHING, Rig
from tests.machines.machine import Machine
from tests.machines.network import LoadThere, Network
from tests.support.engine.fixtures import Place
from tests.support.judge import Answer
from tests.support.load import Load

ROOT = Path(__file__).parents[2]
USER = "reconciler-engine"


@dataclass
class MachineRig(Rig):
    """`place` is the engine to run; its interpreter is preloaded outside and joins its callers.

    Without a `network` of its own the machine shares ours.
    """

    place: Place = field(kw_only=True)
    network: Network | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for path in self.models.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        network = self.network.path if self.network else ""
        self.machine = Machine(self.folder / "machine", f"rig{os.getpid()}-{self.name}", self._binds(), network)
        self._show_hidden_folders()
        self.make_users()
        self._share_cache()

    def make_users(self) -> None:
        for user in (USER, FETCHER):
            self.machine.run("useradd", "--system", user)

    def write_config(self, **source: object) -> None:
        super().write_config(**source)
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text())
        target = settings["targets"][0]
        target["kind"] = "systemd"
        target["engines"][0]["python"] = str(self.engine)
        self.config.write_text(yaml.safe_dump(settings))

    @property
    def engine(self) -> Path:
        """The interpreter of the config: the preloaded one, but a server that is to take 99 sequences crashes.

        Asked about arguments, it first notes who it is there and what it may do.
        """
        script = self.folder / "engine"
        if not script.exists():
            crash = 'case "$*" in *api_server*max-num-seqs=99*) echo "ValueError: no kernel"; exit 3;; esac'
            look = "id -un; touch /etc/written /srv/written; readlink /proc/self/ns/net; printenv HOME"
            note = f'case "$*" in *preflight_probe*) {{ {look}; }} > ~/asked 2>&1;; esac'
            script.write_text(f'#!/bin/sh\n{crash}\n{note}\nexec {self.python} "$@"\n')
            script.chmod(0o755)
        return script

    def told_of_preflight(self) -> str:
        """What `engine` noted when it was asked at last."""
        (target,) = self.settings.targets
        home = place_of(target, self.state_dir / self.name, target.engines[0], {}).folders.home
        return (self.machine.root / home.lstrip("/") / "asked").read_text()

    # ------------------------------------------------------------ the machine

    def _binds(self) -> dict[str, str | Path]:
        readable = {ROOT, Path(sys.prefix), Path(sys.base_prefix), self.place.venv, self.place.folder}
        if fetches := self.target.get("storage", {}).get("python"):
            readable.add(Path(fetches).parent.parent)
        shown = {path for path in readable if not path.is_relative_to("/usr")}
        return {f"{path}:ro": path for path in sorted(shown)} | {str(self.folder): self.folder}

    def _show_hidden_folders(self) -> None:
        """A unit has a /tmp of its own; where this checkout lies in ours, units must see it all the same."""
        hidden = [path for path in self._binds() if path.startswith(("/tmp/", "/var/tmp/"))]
        if hidden:
            lines = "".join(f"BindPaths={path.removesuffix(':ro')}\n" for path in hidden)
            folder = self.machine.root / "etc/systemd/system/reconciler-.service.d"
            folder.mkdir(parents=True)
            (folder / "tests.conf").write_text(f"[Service]\n{lines}")
            self.machine.run("systemctl", "daemon-reload")

    def _share_cache(self) -> None:
        """vLLM looks at each model class once, for 8 s, and keeps what it saw."""
        known = self.place.folder / "vllm-cache"
        if not known.is_dir():
            return
        (target,) = self.settings.targets
        for engine in target.engines:
            home = place_of(target, self.state_dir / self.name, engine, {}).folders.home
            shutil.copytree(known, self.machine.root / home.lstrip("/") / ".cache/vllm")
            self.machine.run("chown", "-R", USER, home)

    # ------------------------------------------------------------ the daemon

    def start(self, *, crashing: bool = False) -> None:
        argv = [sys.executable, "-m", "reconciler"]
        if crashing:
            argv = [sys.executable, str(CRASHING)]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.inside(*argv, "run", "--config", str(self.config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """`nsenter` waits for the daemon, which is a child of it."""
        if self.process is not None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)
            self.process.wait(30)
            self.process = None

    @property
    def config_there(self) -> str:
        """The daemon's config, as the machine names it."""
        return str(self.config)

    def ask(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.inside(sys.executable, "-m", "reconciler", *arguments, "--config", self.config_there),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def host(self, *arguments: str) -> str:
        """`reconciler host …`, which must succeed."""
        argv = self.inside(sys.executable, "-m", "reconciler", "host", *arguments)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        return done.stdout

    def inside(self, *command: str) -> list[str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return self.machine.argv("env", "-i", f"PATH={path}", f"PYTHONPATH={ROOT}", *command)

    # ------------------------------------------------------------ traffic

    def load(self, *names: str, **options: Any) -> Load:
        load = super().load(*names, **options)
        if self.network is None:
            return load
        options = {one.name: getattr(load, one.name) for one in fields(load) if one.init}
        return LoadThere(**options, network=self.network)

    def complete(self, name: str = "tiny", tokens: int = 4) -> list[Answer]:
        with self.network.entered() if self.network else contextlib.nullcontext():
            return super().complete(name, tokens)

    # ------------------------------------------------------------ units

    @property
    def prefix(self) -> str:
        """What the names of replicas' units begin with."""
        return f"reconciler-{self.name}."

    def units(self, *states: str) -> list[str]:
        """Names of replicas' units that systemd has loaded, in any of these states."""
        rows = self.machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", f"{self.prefix}*.service")
        fields = [line.split() for line in rows.splitlines()]
        return [row[0] for row in fields if not states or row[2] in states]

    def unit_files(self) -> list[Path]:
        return sorted((self.machine.root / "etc/systemd/system").glob(f"{self.prefix}*.service"))

    def invocations(self) -> dict[str, str]:
        """Every start of a unit has a number of its own: those of all replicas that run, and of the proxy."""
        names = [*self.units("active"), f"reconciler-proxy-{self.name}.service"]
        return {name: self.machine.run("systemctl", "show", "-P", "InvocationID", name).strip() for name in names}

    def close(self) -> None:
        try:
            self.machine.close()
        finally:
            if self.process is not None:
                self.process.kill()
                self.process.wait(30)
            shutil.rmtree(self.folder, ignore_errors=True)
