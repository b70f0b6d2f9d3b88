"""What would keep a replica from starting is said before anything is stopped for it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from reconciler.engines import preflight
from reconciler.engines.launch import Launch
from reconciler.engines.limits import LONGEST_STRING, ring_bytes, too_large, unfit_argument, unfit_variables
from reconciler.errors import Unstartable
from reconciler.host.gpus.devices import Gpus
from reconciler.host.inventory import Inventory
from reconciler.host.process.interpreters import Interpreters
from reconciler.host.systemd.supervisor import UnitSupervisor
from reconciler.host.target import HostTarget
from reconciler.model import NO_ORIGIN, Argument, AskPreflight, Desired, EnvVar, NoOrigin, Observed, Origin, Reason
from reconciler.secrets import NO_SECRETS, SecretStore
from reconciler.secrets.store import StoredSecret
from reconciler.system import files
from tests.engines.test_engine_preflight import fake_python
from tests.host.checks.test_preflights import SPEC, Disk
from tests.support.world import eventually, record

if TYPE_CHECKING:
    from reconciler.host.systemd.systemd_api import Systemd

BIG = "x" * 200_000
LINE = Origin("box/a.yaml", 17)
FROM_SECRET = EnvVar("CA_BUNDLE", source="secret ca/bundle")


def store(**data: str) -> SecretStore:
    values = {key: value.encode() for key, value in data.items()}
    return SecretStore({("default", "ca"): StoredSecret("default", "ca", LINE, values)})


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def see(disk: Disk, wish: Desired, secrets: SecretStore = NO_SECRETS) -> Observed:
    target = HostTarget(disk.settings, disk.folder / "state", lambda: None, lambda: secrets)
    try:
        return look(target, wish)
    finally:
        target.close()


def look(target: HostTarget, wish: Desired) -> Observed:
    seen = target.observe((wish,))
    assert isinstance(seen, Observed), seen
    seen = target.preflight((wish,), seen)
    assert isinstance(seen, Observed), seen
    return seen


def blocked(seen: Observed) -> list[tuple[str, Origin | NoOrigin]]:
    return [(reason.code, reason.origin) for reasons in seen.blockers.values() for reason in reasons]


def refused(seen: Observed) -> list[Reason]:
    return [reason for verdict in seen.preflights.values() for reason in verdict.reasons]


def with_variable(disk: Disk, variable: EnvVar) -> Desired:
    wish, origins = disk.wanted[0], ((variable.name, LINE),)
    return replace(wish, spec=replace(SPEC, env=(variable,)), variable_origins=origins)


def test_oversized_variable_of_a_secret_blocks_with_its_line(disk: Disk) -> None:
    seen = see(disk, with_variable(disk, FROM_SECRET), store(bundle=BIG))
    assert blocked(seen) == [("InvalidVariable", LINE)]
    (reason,) = seen.blockers[disk.wanted[0].digest]
    assert "variable CA_BUNDLE has 200,010 bytes" in reason.message
    assert "secret ca/bundle" in reason.message
    assert BIG not in reason.message
    assert not refused(seen), "a Secret may change without a commit"


def test_oversized_variable_of_a_secret_is_named_with_its_line(disk: Disk) -> None:
    seen = see(disk, with_variable(disk, EnvVar("CA_*", source="secret ca/*")), store(bundle=BIG))
    assert blocked(seen) == [("InvalidVariable", LINE)]


@pytest.mark.parametrize("value", [BIG, "a\0b", "half \ud800 of it"], ids=["large", "NUL", "surrogate"])
def test_unusable_variable_in_git_is_refused_with_its_line(disk: Disk, value: str) -> None:
    seen = see(disk, with_variable(disk, EnvVar("NOTES", value)))
    assert [(reason.code, reason.origin) for reason in refused(seen)] == [("InvalidVariable", LINE)]


@pytest.mark.parametrize("value", [BIG, "a\0b"], ids=["large", "NUL"])
def test_unusable_argument_is_refused_with_its_line(disk: Disk, value: str) -> None:
    line = Origin("box/a.yaml", 20)
    spec = replace(SPEC, args=(*SPEC.args, Argument(f"--chat-template={value}", line)))
    (reason,) = refused(see(disk, replace(disk.wanted[0], spec=spec)))
    assert (reason.code, reason.origin) == ("InvalidArgument", line)
    assert "--chat-template" in reason.message


def test_interpreter_gone_after_its_verdict_blocks_the_next_start(disk: Disk) -> None:
    disk.judge()
    assert see(disk, disk.wanted[0]).blockers == {}
    disk.python.unlink()
    disk.python.symlink_to(disk.folder / "base")
    seen = see(disk, disk.wanted[0])
    assert blocked(seen) == [("EngineBroken", NO_ORIGIN)]
    (reason,) = seen.blockers[disk.wanted[0].digest]
    assert f"{disk.python} leads to {disk.folder}/base, which is not there" in reason.message
    assert not seen.preflights, "what the engine once said of the arguments does not count"


def test_full_disk_blocks_a_start(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEAST_BYTES", 1 << 80)
    assert ("DiskFull", NO_ORIGIN) in blocked(see(disk, disk.wanted[0]))


def test_full_disk_is_told_once_for_all_folders_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEAST_BYTES", 1 << 80)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    assert [one.code for one in files.unwritable(map(str, folders))] == ["DiskFull"]


def test_shared_memory_too_small_for_the_workers_blocks_a_start(disk: Disk) -> None:
    seen = see(disk, with_variable(disk, EnvVar("VLLM_MQ_MAX_CHUNK_BYTES_MB", "999999")))
    assert blocked(seen) == [("SharedMemoryFull", NO_ORIGIN)]


@pytest.mark.parametrize("replicas", [0, 1])
def test_start_that_is_not_wanted_is_not_rehearsed(disk: Disk, replicas: int) -> None:
    disk.python.unlink()
    assert bool(see(disk, replace(disk.wanted[0], replicas=replicas)).blockers) == bool(replicas)


# ---------------------------------------------------------------- interpreters


def test_interpreter_that_runs_is_asked_once_while_its_files_stay(tmp_path: Path) -> None:
    python = fake_python(tmp_path, f"echo run >> {tmp_path}/runs")
    seen = Interpreters()
    assert [seen.fault(str(python)) for _ in range(3)] == ["", "", ""]
    assert (tmp_path / "runs").read_text() == "run\n"
    python.write_text("#!/nowhere/sh\n")
    assert "No such file" in seen.fault(str(python))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("exit 1", ""),  # it runs; what it thinks of our options is its own affair
        ("exec /nowhere/python", "/nowhere/python: not found"),
        ("echo 'Fatal Python error: init_fs_encoding: no codec' >&2; exit 1", "Fatal Python error: init_fs_encoding"),
        ("kill -ILL $$", "it ended with -4"),
    ],
)
def test_interpreter_that_cannot_run_says_why(tmp_path: Path, body: str, fault: str) -> None:
    found = Interpreters().fault(str(fake_python(tmp_path, body)))
    assert fault in found
    assert bool(found) == bool(fault)


def test_file_of_another_machine_is_no_interpreter(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "")
    python.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xff\xff" + bytes(44))
    assert "Exec format error" in Interpreters().fault(str(python))
    python.chmod(0o644)
    assert "Permission denied" in Interpreters().fault(str(python))


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("more", [0, 1])
def test_limit_of_one_string_is_the_kernels(more: int) -> None:
    word = "x" * (LONGEST_STRING - 1 + more)
    try:
        os.posix_spawn("/bin/true", ["true", word], {})
        started = True
    except OSError:
        started = False
    assert (started, not unfit_argument(word)) == (not more, not more)


def test_name_of_a_variable_is_judged_too() -> None:
    assert [name for name, _ in unfit_variables({"A=B": "", "": "x", "GOOD": "x"})] == ["A=B", ""]


def test_all_strings_together_are_counted_as_the_kernel_counts_them() -> None:
    assert not too_large(["ab"], {"C": "d"}, 2 + 3 + 2 * 9)
    assert too_large(["ab"], {"C": "d"}, 2 + 3 + 2 * 9 - 1)


def test_rings_are_as_large_as_the_variable_says() -> None:
    assert ring_bytes({}) == 160 << 20
    assert ring_bytes({"VLLM_MQ_MAX_CHUNK_BYTES_MB": "1"}) == 10 << 20
    assert ring_bytes({"VLLM_MQ_MAX_CHUNK_BYTES_MB": "many"}) == 0


# ---------------------------------------------------------------- an engine that gives no verdict


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_FIRST_PAUSE", 0.0)


def test_preflight_that_fails_again_and_again_blocks_with_variables_line(disk: Disk, impatient: None) -> None:
    wish = with_variable(disk, EnvVar("VLLM_USE_TEA", "much"))
    packages = next((disk.folder / "engine").glob("lib/python3*/site-packages"))
    (packages / "vllm").mkdir()
    (packages / "vllm" / "__init__.py").write_text(
        "import os\nread = lambda: int(os.environ['VLLM_USE_TEA'])\nread()\n"
    )
    target = HostTarget(disk.settings, disk.folder / "state", lambda: None)
    assert wish.spec is not None
    ask = AskPreflight(wish.id, wish.digest, wish.spec, wish.origin, "test")

    try:
        for count in range(3):
            assert look(target, wish).blockers == {}, f"{count} failures are none yet"
            target.perform(ask)
            eventually(lambda: not look(target, wish).preflighting)
        seen = look(target, wish)
    finally:
        target.close()
    (reason,) = seen.blockers[wish.digest]
    assert (reason.code, reason.origin) == ("PreflightFailed", LINE)
    assert "variable VLLM_USE_TEA: preflight with" in reason.message
    assert "invalid literal for int() with base 10: 'much'" in reason.message
    assert not seen.preflights, "nobody's arguments are refused for it"


# ---------------------------------------------------------------- units


def unit_blockers(folder: Path, user: str, **more: object) -> list[str]:
    """What stands in the way of a unit with these variables; nothing of systemd is needed to tell."""
    launch = Launch((sys.executable, "-m", "x"), {"HOME": "/var/cache/reconciler/x"}, "/tmp")
    units = UnitSupervisor("box", user, Inventory(folder), Gpus(()), cast("Systemd", None))
    return [reason.code for reason in units.blockers(record(), replace(launch, **more))]


def test_unit_of_a_user_who_is_not_there_cannot_start(tmp_path: Path) -> None:
    assert unit_blockers(tmp_path, "nobody-of-this-name") == ["UserNotFound"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes units")
def test_unit_takes_no_larger_credential_than_systemd(tmp_path: Path) -> None:
    env = {"HOME": "/var/cache/reconciler/x"} | {f"SECRET_{n}": "x" * 100_000 for n in range(11)}
    hidden = frozenset(env) - {"HOME"}
    assert unit_blockers(tmp_path, "root", env=env, hidden=hidden) == ["ArgumentListTooLong"]
    fewer = {name: env[name] for name in list(env)[:9]}
    assert unit_blockers(tmp_path, "root", env=fewer, hidden=hidden) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes units")
def test_word_that_no_unit_can_hold_is_the_specs_fault(tmp_path: Path) -> None:
    env = {"HOME": "/var/cache/reconciler/x", "a.b": "secret"}
    with pytest.raises(Unstartable, match=r"cannot hide the variable 'a\.b'"):
        unit_blockers(tmp_path, "root", env=env, hidden=frozenset({"a.b"}))
