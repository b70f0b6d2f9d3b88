"""A real Gitea on loopback, over TLS and ssh, with SQLite below it. It ends with this process, however that ends.

Where it differs from GitHub, it proves nothing about GitHub: any length of a description and any number of statuses is
accepted, an unknown commit is answered with 500, a webhook is not sent again, and there are no deployments.
"""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from tests.controlplane.api import wait_for
from tests.controlplane.certificates import Authority
from tests.controlplane.processes import Processes
from tests.support.ports import free_port
from tests.support.signing import make_ssh_key

_NOBODY = 65534
_START_SECONDS = 60
ADMIN, PASSWORD = "admin", "correct-horse"


class NoGitea(Exception):
    """There is no program to start; the message says how to get it."""


class Refused(Exception):
    """An answer of its API that is not 2xx."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def find_program() -> Path:
    """The folder of `RECONCILER_TEST_GITEA`, else what tests/run.sh built last. Raises NoGitea."""
    named = os.environ.get("RECONCILER_TEST_GITEA")
    cache = Path(os.environ.get("RECONCILER_CACHE") or Path.home() / ".cache" / "reconciler")
    made = sorted(cache.glob("gitea-*/complete"), key=lambda file: file.stat().st_mtime)
    folder = Path(named) if named else made[-1].parent if made else None
    if folder is None or not (folder / "gitea").exists():
        raise NoGitea("no Gitea is built; run tests/run.sh forge once, or set RECONCILER_TEST_GITEA")
    return folder


class Gitea:
    """One forge, from its creation to `close`. `folder` must be reachable by every user: Gitea refuses to be root."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self._as = _as_nobody()
        self._program = _reachable(program, folder / "program") if self._as else program
        self.port, self.ssh_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        authority = Authority(folder / "pki")
        self.ca_file = authority.certificate
        self._certificate = authority.server("gitea")
        self._pool = urllib3.PoolManager(ca_certs=str(self.ca_file), maxsize=16, retries=False)
        self.known_hosts = folder / "known_hosts"
        self.processes = Processes(folder / "logs")
        try:
            self._install()
            self.start()
        except BaseException:
            self.processes.close()
            raise

    # ------------------------------------------------------------ the process

    def start(self) -> None:
        """Returns once it answers. What it has stored is there again."""
        self.processes.start("gitea", *self._command("web"))
        wait_for(self._answers, _START_SECONDS, "Gitea to answer")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """With SIGKILL at once: connections break, and are refused from now on."""
        self.processes.stop("gitea", number)

    def close(self) -> None:
        self.processes.close()
        self._pool.clear()

    def _answers(self) -> bool:
        if dead := self.processes.dead():
            raise RuntimeError(dead)
        try:
            return self._pool.request("GET", f"{self.url}/api/v1/version").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    # ------------------------------------------------------------ its API

    def ask(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str]) -> Any:
        """Decoded JSON; None where the answer is empty. `path` follows `/api/v1`. Raises Refused."""
        answer = self._pool.request(method, f"{self.url}/api/v1{path}", json=body, headers=dict(headers), timeout=30)
        if answer.status >= 300:
            raise Refused(answer.status, answer.data.decode(errors="replace")[:500])
        return answer.json() if answer.data else None

    def as_admin(self, method: str, path: str, body: Any = None) -> Any:
        return self.ask(method, path, body, headers=basic(ADMIN, PASSWORD))

    # ------------------------------------------------------------ set-up

    def _install(self) -> None:
        work = self.folder / "work"
        for name in ("conf", "data/ssh", "repos", "log", "home"):
            (work / name).mkdir(parents=True)
        public = make_ssh_key(work / "data" / "ssh" / "host_ed25519")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.ssh_port} {public}\n")
        certificate, private = self._certificate
        for name, file in (("tls.crt", certificate), ("tls.key", private)):
            shutil.copy(file, work / "conf" / name)
        (work / "conf" / "app.ini").write_text(_ini(self._settings(work)))
        if self._as:
            subprocess.run(["chown", "-R", f"{_NOBODY}:{_NOBODY}", str(work)], check=True)
        user = ["--admin", "--username", ADMIN, "--password", PASSWORD, "--must-change-password=false"]
        for command in (["migrate"], ["admin", "user", "create", *user, "--email", "admin@example.invalid"]):
            done = subprocess.run(self._command(*command), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

    def _command(self, *arguments: str) -> list[str]:
        work = self.folder / "work"
        variables = {"HOME": work / "home", "USER": self._user, "GITEA_WORK_DIR": work, "PATH": os.environ["PATH"]}
        env = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        return [*env, *self._as, str(self._program / "gitea"), *arguments, "--config", str(work / "conf" / "app.ini")]

    @property
    def _user(self) -> str:
        return pwd.getpwuid(_NOBODY if self._as else os.getuid()).pw_name

    def _settings(self, work: Path) -> dict[str, dict[str, object]]:
        """Nothing that waits, sends mail or asks the internet; webhooks may go to loopback."""
        server = {
            "PROTOCOL": "https",
            "HTTP_ADDR": "127.0.0.1",
            "HTTP_PORT": self.port,
            "DOMAIN": "127.0.0.1",
            "ROOT_URL": f"{self.url}/",
            "LOCAL_ROOT_URL": f"{self.url}/",
            "CERT_FILE": work / "conf" / "tls.crt",
            "KEY_FILE": work / "conf" / "tls.key",
            "STATIC_ROOT_PATH": self._program / "static",
            "APP_DATA_PATH": work / "data",
            "OFFLINE_MODE": True,
            "START_SSH_SERVER": True,
            "BUILTIN_SSH_SERVER_USER": "git",
            "SSH_DOMAIN": "127.0.0.1",
            "SSH_LISTEN_HOST": "127.0.0.1",
            "SSH_LISTEN_PORT": self.ssh_port,
            "SSH_PORT": self.ssh_port,
            "SSH_SERVER_HOST_KEYS": "ssh/host_ed25519",
        }
        key = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        return {
            "": {"RUN_MODE": "prod", "RUN_USER": self._user, "WORK_PATH": work},
            "server": server,
            "database": {"DB_TYPE": "sqlite3", "PATH": work / "data" / "gitea.db", "SQLITE_JOURNAL_MODE": "WAL"},
            "repository": {"ROOT": work / "repos", "DEFAULT_BRANCH": "main", "DISABLE_MIGRATIONS": True},
            "security": {
                "INSTALL_LOCK": True,
                "SECRET_KEY": os.urandom(16).hex(),
                "INTERNAL_TOKEN": os.urandom(32).hex(),
                "PASSWORD_HASH_ALGO": "pbkdf2$1000$50",
            },
            "oauth2": {"ENABLED": False, "JWT_SECRET": key},
            "service": {"DISABLE_REGISTRATION": True},
            "webhook": {"ALLOWED_HOST_LIST": "loopback"},
            "log": {"MODE": "console", "LEVEL": "Info", "ROOT_PATH": work / "log"},
            "cron": {"ENABLED": False},
            "indexer": {"ISSUE_INDEXER_TYPE": "db"},
            "queue": {"TYPE": "channel"},
            "actions": {"ENABLED": False},
            "packages": {"ENABLED": False},
        }


def basic(user: str, password: str) -> dict[str, str]:
    return urllib3.make_headers(basic_auth=f"{user}:{password}")


def _as_nobody() -> list[str]:
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"]


def _reachable(program: Path, place: Path) -> Path:
    """The program where every user reaches it: root's home is closed."""
    try:
        return Path(shutil.copytree(program, place, copy_function=os.link))
    except shutil.Error:
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(program, place))


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines: list[str] = []
    for name, values in sections.items():
        lines += [f"[{name}]"] if name else []
        lines += [
            f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
        ]
    return "\n".join(lines) + "\n"
