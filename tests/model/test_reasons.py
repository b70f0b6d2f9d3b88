"""Every reason is a member of the list, and the list holds no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import reconciler
from reconciler.model import ReasonCode
from reconciler.model.reasons import RENAMED

PACKAGE = Path(reconciler.__file__).parent
HOME = PACKAGE / "model" / "reasons.py"
# Words of others that are also a reason of ours, by the file that reads or writes them: those of Kubernetes, KServe
# and AWS.
FOREIGN = {
    "kserve/names.py": {"ModelMesh"},
    "kserve/status.py": {"MinimumReplicasUnavailable", "Stopped"},
    "host/staging/download/s3.py": {"AccessDenied"},
    "cluster/preflight_job.py": {"FailedCreate", "OOMKilled"},
    "cluster/health/objects.py": {"ProgressDeadlineExceeded", "Progressing"},
    "cluster/health/pods.py": {"CrashLoopBackOff", "FailedMount", "OOMKilled", "Unschedulable"},
    "cluster/health/service.py": {
        "InternalError",
        "InvalidPredictorSpec",
        "ModelMesh",
        "NoSupportingRuntime",
        "ReconcileFailed",
        "RuntimeDisabled",
        "RuntimeNotRecognized",
        "Stopped",
    },
    "cluster/health/workload.py": {"ProgressDeadlineExceeded", "Progressing"},
}


@cache
def trees() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py") if path != HOME
    }


def other_vocabularies(tree: ast.Module) -> Iterator[ast.AST]:
    """What `__all__` lists, members of other enums, and parts of sentences."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield from node.values
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets):
            yield from ast.walk(node)
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "StrEnum" for base in node.bases
        ):
            yield from ast.walk(node)


@pytest.mark.slow
def test_no_reason_is_written_as_text() -> None:
    codes = {str(each) for each in ReasonCode}
    found = []
    for file, tree in trees().items():
        others = set(map(id, other_vocabularies(tree)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in codes and id(node) not in others:
                found += [(file, node.value)] if node.value not in FOREIGN.get(file, ()) else []
    assert not found


@pytest.mark.slow
def test_every_reason_is_given_somewhere() -> None:
    used = {node.attr for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {each.name for each in ReasonCode} - used - {"UNKNOWN_REASON"} == set()


@pytest.mark.parametrize("reason", ReasonCode)
def test_reason_says_in_one_line_what_it_means(reason: ReasonCode) -> None:
    assert reason.meaning
    assert reason.meaning[0].islower() or reason.meaning.startswith(("KServe", "OpenShift", "Kubernetes", "Knative"))
    assert not reason.meaning.endswith(".")


def test_reason_that_another_version_wrote_is_read() -> None:
    assert ReasonCode.read("Crashed") is ReasonCode.CRASHED
    assert ReasonCode.read("NotReadyInTime") is ReasonCode.PROGRESS_DEADLINE_EXCEEDED
    assert ReasonCode.read("FromTheFuture") is ReasonCode.UNKNOWN_REASON


def test_renamed_reason_has_one_new_name_and_no_old_one() -> None:
    codes = {str(each) for each in ReasonCode}
    assert set(RENAMED.values()) <= codes
    assert not set(RENAMED) & codes
