"""What differs in mode Knative: the pod becomes the template of a Knative revision, with annotations for its scaler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.kserve import names
from reconciler.kserve.config import Config
from reconciler.kserve.pod import Pod

_AUTOSCALING = "autoscaling.knative.dev"
_INITIAL_SCALE = f"{_AUTOSCALING}/initial-scale"
# These belong to the Knative service, not to its revisions.
_OF_THE_SERVICE = ("serving.knative.dev/rollout-duration", "serving.knative.openshift.io/enablePassthrough")
_VISIBILITY = "networking.knative.dev/visibility"


def make_revision(pod: Pod, predictor: Mapping[str, Any], config: Config) -> None:
    """Annotations and labels of the revision's template."""
    notes = pod.annotations
    notes.setdefault(names.KNATIVE_AUTOSCALING_CLASS, f"kpa.{_AUTOSCALING}")
    for key, field in (("target", "scaleTarget"), ("metric", "scaleMetric"), ("max-scale", "maxReplicas")):
        if field in predictor:
            notes[f"{_AUTOSCALING}/{key}"] = str(predictor[field])
    notes[f"{_AUTOSCALING}/min-scale"] = str(predictor.get("minReplicas", 1))
    for key in _OF_THE_SERVICE:
        notes.pop(key, None)
    if not _is_positive(notes.get(_INITIAL_SCALE, "1")):
        del notes[_INITIAL_SCALE]
    disallowed = {_VISIBILITY, *config.disallowed_labels}
    pod.labels = {key: value for key, value in pod.labels.items() if key not in disallowed}


def _is_positive(text: str) -> bool:
    """Knative starts with no pod only where its own settings allow it; KServe drops what it would refuse."""
    return text.isascii() and text.isdigit() and int(text[:9]) > 0
