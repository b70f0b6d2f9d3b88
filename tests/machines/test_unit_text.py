"""The text of a unit, as a real systemd reads it: arguments arrive byte for byte, and the sandbox is tight."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.host.systemd.unit import UnitPlan, build_unit, credential_of, unit_name
from reconciler.model import ReplicaId, Resources, ServiceId
from tests.machines.conftest import CODE
from tests.machines.machine import Machine

pytestmark = pytest.mark.host

WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=5)
PITFALLS = [
    "",
    " ",
    "%",
    "%%n",
    "$HOME",
    "${HOME}",
    "$$",
    ";",
    "\\",
    '"',
    "'",
    "\n",
    "\t",
    "\x01",
    "\x7f",
    "#",
    "-",
    "@x",
    "é☃",
]
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,6}", fullmatch=True).map(lambda name: f"X{name}")


def echo(number: int, argv: tuple[str, ...], env: dict[str, str], hidden: frozenset[str] = frozenset()) -> UnitPlan:
    replica = ReplicaId(ServiceId("default", "echo"), f"aaaaaaaa-{number}")
    return UnitPlan(
        target="box",
        replica=replica,
        argv=("/usr/bin/python3", "-IS", f"{CODE}/tests/machines/echo.py", *argv),
        env=env,
        user="nobody",
        cache=f"reconciler/echo-{number}",
        drain_timeout=1.0,
        address=31000 + number,
        resources=Resources(),
        hidden=hidden,
        credential=f"/var/lib/secret-{number}",
    )


def say(machine: Machine, plans: list[UnitPlan]) -> list[dict[str, object]]:
    """Start these units in one go; what each was started with."""
    names = [unit_name("box", plan.replica) for plan in plans]
    said = [machine.root / f"var/cache/{plan.cache}/said" for plan in plans]
    for plan, name, path in zip(plans, names, said, strict=True):
        path.unlink(missing_ok=True)
        (machine.root / "etc/systemd/system" / name).write_text(build_unit(plan))
        (machine.root / plan.credential.lstrip("/")).write_text(credential_of(plan) or "")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", *names)
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in said) and time.monotonic() < deadline:
        time.sleep(0.02)
    answers = [json.loads(path.read_text()) for path in said]
    machine.run("systemctl", "kill", "-s", "KILL", *names)
    machine.run("systemctl", "stop", *names)
    return answers


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(WORDS, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=8, max_size=12))
def test_every_word_and_variable_arrives_byte_for_byte(
    machine: Machine, cases: list[tuple[list[str], dict[str, str]]]
) -> None:
    cases = [(PITFALLS, dict(zip((f"P{n}" for n in range(99)), PITFALLS, strict=False))), *cases]
    plans = [echo(n, tuple(words), env, frozenset(list(env)[: n % 2])) for n, (words, env) in enumerate(cases)]
    for plan, (words, env), answer in zip(plans, cases, say(machine, plans), strict=True):
        assert answer["argv"] == [word.encode().hex() for word in words], build_unit(plan)
        got = answer["env"]
        assert isinstance(got, dict)
        assert {name: got.get(name) for name in env} == env, build_unit(plan)


def test_sandbox_is_tight_and_systemd_finds_nothing_to_say(machine: Machine) -> None:
    plan = replace(
        echo(0, (), {"A": "b"}), user="daemon", mounts={"/mnt/models": "/usr/share"}, devices=("/dev/nvidia3",)
    )
    path = f"/run/{unit_name('box', plan.replica)}"
    (machine.root / path.lstrip("/")).write_text(build_unit(plan))
    done = subprocess.run(machine.argv("systemd-analyze", "verify", path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    last = machine.run("systemd-analyze", "security", "--offline=true", "--no-pager", path).splitlines()[-1]
    assert float(last.split(":")[-1].split()[0]) <= 4.0, last
