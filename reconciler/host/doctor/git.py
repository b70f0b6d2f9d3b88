"""git, and the repository with the access that the config gives."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reconciler.config.settings import Settings, SourceSettings
from reconciler.errors import Retryable
from reconciler.formats.git_address import Address, parse_address
from reconciler.host.doctor.ask import ask
from reconciler.manifests import kustomize
from reconciler.model import File
from reconciler.report.findings import CheckResult, exposed, ok, problem
from reconciler.secrets import sops
from reconciler.source import GitSource
from reconciler.source.git_errors import AGAIN

_OLDEST = (2, 32)
_OLDEST_SOPS = (3, 9)
_PATIENCE = 15.0
_SMALLEST = b"configMapGenerator: [{name: doctor, literals: [a=b]}]\n"
# Reserved for examples; the config that `host install` writes names it.
_EXAMPLE = "git.example.com"


def check_program() -> Iterator[CheckResult]:
    """git is there and new enough."""
    answer = ask(("git", "--version"))
    version = re.search(r"(\d+)\.(\d+)\S*", answer.text)
    if not answer.succeeded or version is None:
        yield problem("git", f"git cannot be run: {answer.last_line}", "install git 2.32 or newer")
    elif (int(version[1]), int(version[2])) < _OLDEST:
        yield problem("git", f"git {version[0]} is too old", "install git 2.32 or newer")
    else:
        yield ok("git", f"git {version[0]}")


def check_kustomize() -> Iterator[CheckResult]:
    """Only a repository whose kustomizations change what they list needs it."""
    program = kustomize.find_program()
    if program is None:
        yield ok("kustomize", "neither kustomize nor kubectl is on PATH: kustomizations may only list files")
        return
    answer = ask((program.path, *program.version))
    version = re.search(r"v(\d+)\.(\d+)\.\d+", answer.text)
    oldest = ".".join(map(str, program.oldest))
    fix = f"reinstall kustomize or kubectl ({program.path}: {oldest} or newer), or remove it"
    if not answer.succeeded or version is None:
        yield problem("kustomize", f"{program.path} does not start: {answer.last_line}", fix)
    elif (int(version[1]), int(version[2])) < program.oldest:
        yield problem("kustomize", f"{program.path} {version[0]} is too old", fix)
    elif failure := _why_not_built(program):
        fix = "put the program itself on PATH: builds run without other programs, so wrapper scripts do not find theirs"
        yield problem("kustomize", f"{program} ({version[0]}) does not build: {failure}", fix)
    else:
        yield ok("kustomize", f"{program} ({version[0]}) builds kustomizations")


def _why_not_built(program: kustomize.Program) -> str:
    """Of a smallest kustomization, as the daemon builds them; empty: it was built."""
    try:
        built = kustomize.build(program, "", [File("kustomization.yaml", "", _SMALLEST)])
    except (kustomize.BuildFailed, OSError) as error:
        return str(error)
    return "" if b"ConfigMap" in built else "it printed no objects"


def check_sops(settings: Settings) -> Iterator[CheckResult]:
    """Needed if Secrets in git are encrypted: a config with a key expects some."""
    program = sops.find_program()
    is_expected = any(path is not None for target in settings.targets for path in target.secrets.key_files)
    if program is None and not is_expected:
        yield ok("sops", "not installed: encrypted Secrets in git cannot be decrypted")
        return
    if program is None:
        message = "targets[].secrets.age_key_file is set, but sops is missing to decrypt Secrets"
        yield problem("sops", message, sops.INSTALL)
        return
    answer = ask((program, "--disable-version-check", "--version"))
    version = re.search(r"(\d+)\.(\d+)\.\d+", answer.text)
    if not answer.succeeded or version is None:
        yield problem("sops", f"{program} does not start: {answer.last_line}", sops.INSTALL)
    elif (int(version[1]), int(version[2])) < _OLDEST_SOPS:
        yield problem("sops", f"{program} {version[0]} is too old", "install sops 3.9 or newer")
    else:
        yield ok("sops", f"{program} ({version[0]}) opens encrypted Secrets")


def check_source(settings: Settings) -> Iterator[CheckResult]:
    """The remote answers, with the configured login, and has the configured reference. Nothing is fetched."""
    source = settings.source
    if parse_address(source.url).host.endswith(_EXAMPLE):
        fix = "write into the config where git is and which interpreter runs which image, then reconciler host install"
        yield problem("source", f"source.url is still that of the example: {source.url}", fix)
        return
    for key in ("token_file", "ssh_key_file"):
        yield from exposed("source", f"source.{key}", getattr(source, key))
    impatient = source.model_copy(update={"timeout": min(source.timeout or _PATIENCE, _PATIENCE)})
    try:
        with tempfile.TemporaryDirectory(prefix="reconciler-doctor-") as scratch:
            found = GitSource(impatient, Path(scratch) / "git", ("",)).look()
    except Retryable as error:
        message, _, fix = str(error).rpartition("; ")
        # The next steps of the daemon would not help here.
        fix = "correct source.url, or see to the network and its name servers" if AGAIN in fix else fix
        yield problem("source", message, fix)
        return
    yield ok("source", f"{parse_address(source.url).shown}: {found}")


def check_ssh(source: SourceSettings) -> Iterator[CheckResult]:
    """For a remote over ssh: the program, and the server's key, without which no connection is made."""
    address = parse_address(source.url)
    if address.scheme != "ssh":
        return
    if shutil.which("ssh") is None:
        yield problem("ssh", "ssh is missing, and source.url needs it", "install openssh-client")
        return
    known = source.known_hosts_file
    if known is None:
        yield _known_by_default(address)
    elif not known.is_file():
        yield problem("ssh", f"source.known_hosts_file: {known} is not a file", _fix(address, known))
    elif not ask(("ssh-keygen", "-F", _name(address), "-f", str(known))).succeeded:
        yield problem("ssh", f"source.known_hosts_file: {known} has no key of {_name(address)}", _fix(address, known))
    else:
        yield ok("ssh", f"{known} has a key of {_name(address)}")


def _known_by_default(address: Address) -> CheckResult:
    """Without a file of its own, ssh looks where it always does. The doctor runs as the daemon's user."""
    for path in (Path.home() / ".ssh" / "known_hosts", Path("/etc/ssh/ssh_known_hosts")):
        if path.is_file() and ask(("ssh-keygen", "-F", _name(address), "-f", str(path))).succeeded:
            return ok("ssh", f"{path} has a key of {_name(address)}")
    message = (
        f"source.known_hosts_file is not set, and neither this user's nor the host's has a key of {_name(address)}"
    )
    return problem("ssh", message, f"{_fix(address)}, and set source.known_hosts_file")


def _name(address: Address) -> str:
    """The server as known_hosts names it: with its port in brackets unless that is 22."""
    host, colon, port = address.host.rpartition(":") if re.search(r":\d+$", address.host) else (address.host, "", "")
    return f"[{host}]:{port}" if colon and port != "22" else host


def _fix(address: Address, known: Path = Path("/etc/reconciler/known_hosts")) -> str:
    host, _, port = _name(address).replace("[", "").partition("]:")
    port = f"-p {port} " if port else ""
    return f"ssh-keyscan {port}{host} >> {known}, then compare the keys with those that the server's owner publishes"
