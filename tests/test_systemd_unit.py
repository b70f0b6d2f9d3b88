"""The text of a unit: what must stand in it, and what must not. Real systemd reads it in tests/machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.model import ReplicaId, Resources, ServiceId
from reconciler.targets.systemd.unit import (
    UnitPlan,
    build_unit,
    credential_of,
    read_facts,
    replica_of,
    unit_name,
)

PLAN = UnitPlan(
    replica=ReplicaId(ServiceId("default", "chat"), "aaaaaaaa-0"),
    argv=("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"),
    env={"PATH": "/bin"},
    user="engine",
    cache="reconciler/0",
    drain_timeout=90.5,
    resources=Resources(0, 4000, 2 << 30, cpu_limit_millis=6500, memory_limit_bytes=3 << 30),
)


def test_what_stands_in_our_section_can_be_read_back() -> None:
    plan = replace(PLAN, facts={"Digest": "abc", "Record": '{"a": "b=c; [d]"}'})
    assert read_facts(build_unit(plan)) == plan.facts


def test_hidden_variables_stand_in_no_unit() -> None:
    plan = replace(PLAN, env={"HF_TOKEN": "hunter2", "PATH": "/bin"}, hidden=frozenset({"HF_TOKEN"}))
    assert "hunter2" not in build_unit(plan)
    assert "hunter2" in (credential_of(plan) or "")
    with pytest.raises(ValueError, match="cannot hide"):
        build_unit(replace(plan, env={"my.token": "hunter2"}, hidden=frozenset({"my.token"})))


def test_only_leased_gpus_can_be_opened() -> None:
    assert "DeviceAllow" not in build_unit(PLAN)
    text = build_unit(replace(PLAN, devices=("/dev/nvidia3",)))
    assert "DevicePolicy=closed\n" in text
    assert [line for line in text.splitlines() if line.startswith("DeviceAllow=/dev/nvidia3")]
    assert "/dev/nvidia0" not in text


def test_names_of_units_lead_back_to_replicas() -> None:
    replica = ReplicaId(ServiceId("team-a", "chat"), "aaaaaaaa-0")
    assert replica_of("gpu-1", unit_name("gpu-1", replica)) == replica
    assert replica_of("gpu", unit_name("gpu-1", replica)) is None
    assert replica_of("gpu-1", "reconciler-proxy-gpu-1.service") is None


def test_a_drain_gets_its_time_and_a_request_its_weight() -> None:
    lines = build_unit(PLAN).splitlines()
    assert {"TimeoutStopSec=121", "KillMode=mixed", "Restart=always", "StartLimitBurst=3", "OOMPolicy=stop"} <= {*lines}
    assert "CPUWeight=157" in lines, "4 cores are 4096 shares, and that is this weight in Kubernetes too"
    assert f"MemoryLow={2 << 30}" in lines
    assert {"CPUQuota=650%", f"MemoryMax={3 << 30}"} <= {*lines}


def test_models_lie_where_a_container_would_see_them() -> None:
    lines = build_unit(replace(PLAN, mounts={"/mnt/models": "/srv/a model"})).splitlines()
    assert 'BindReadOnlyPaths="/srv/a model":/mnt/models' in lines
    assert 'RequiresMountsFor="/srv/a model"' in lines


@pytest.mark.parametrize("change", [{"argv": ("a\0b",)}, {"mounts": {"/mnt/models": "/srv/a\nb"}}, {"user": "a\nb"}])
def test_what_no_unit_can_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cannot|no process"):
        build_unit(replace(PLAN, **change))  # type: ignore[arg-type]


def test_the_name_of_a_variable_is_no_option_of_env() -> None:
    text = build_unit(replace(PLAN, env={"-S": "/bin/evil"}))
    assert "ExecStart=:/usr/bin/env -- -S=/bin/evil /opt/vllm/bin/python -m" in text
