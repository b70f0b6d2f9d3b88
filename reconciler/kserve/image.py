"""Which image runs: runtimeVersion, and the tags that a server type gets with or without a GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler.kserve import names

_TAG = re.compile(r":[\w.\-_]*\Z", re.ASCII)
_GPU_TAGS = ("tensorflow-serving", "torchserve", "huggingfaceserver")


def has_nvidia_gpu(resources: Mapping[str, Any]) -> bool:
    """KServe checks NVIDIA's limits only, a whole GPU or a slice of one."""
    limits = resources.get("limits") or {}
    return any(name == "nvidia.com/gpu" or name.startswith("nvidia.com/mig") for name in limits)


def choose_image(
    container: Mapping[str, Any], version: str | None, runtime_name: str, annotations: Mapping[str, str]
) -> str:
    """The image of the merged kserve-container. `annotations` are those of the runtime's metadata."""
    image: str = container.get("image", "")
    if "@sha256:" in image:
        return image
    tag = _TAG.search(image)
    if version is not None:
        return f"{image[: tag.start()] if tag else image}:{version}"
    server = annotations.get(names.SERVER_TYPE) or names.server_type_of(runtime_name)
    if not server or not tag:
        return image
    if has_nvidia_gpu(container.get("resources") or {}):
        return f"{image}-gpu" if server in _GPU_TAGS and not image.endswith("-gpu") else image
    repository = image[: tag.start()]
    if server == "vllmserver" and not repository.endswith("-cpu"):
        return f"{repository}-cpu{tag[0]}"
    return image
