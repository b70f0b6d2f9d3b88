"""Names of images: what runs which, and what a name means in full. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.config.settings import EngineSettings

# Servers that are not vLLM, by a part of their images' names.
_OTHERS = {
    "huggingfaceserver": "KServe's Hugging Face server",
    "sklearnserver": "KServe's scikit-learn server",
    "xgbserver": "KServe's XGBoost server",
    "lgbserver": "KServe's LightGBM server",
    "pmmlserver": "KServe's PMML server",
    "paddleserver": "KServe's Paddle server",
    "text-generation-inference": "Text Generation Inference",
    "text-generation-server": "Text Generation Inference",
    "tgis": "Text Generation Inference",
    "text-embeddings-inference": "Text Embeddings Inference",
    "tritonserver": "Triton",
    "tensorrt-llm": "TensorRT-LLM",
    "sglang": "SGLang",
    "lmdeploy": "LMDeploy",
    "llama.cpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "ollama": "Ollama",
    "caikit": "Caikit",
    "torchserve": "TorchServe",
    "mlserver": "MLServer",
    "model_server": "OpenVINO Model Server",
    "openvino": "OpenVINO Model Server",
}


def doubtful_image(image: str, command: Sequence[str]) -> str:
    """Why it is not certain that a container runs vLLM:

    neither its command nor its image's name says so. None: it is.
    """
    repository = image.partition("@")[0].lower()
    if command or "vllm" in repository:
        return ""
    advice = "write command: [vllm, serve], and --model=/mnt/models and --served-model-name={{.Name}} in args"
    if server := next((name for part, name in _OTHERS.items() if part in repository), ""):
        return f"image {image} starts {server}, whose arguments are others; a host runs vLLM: {advice}"
    what = f"image {image} is not known to be vLLM" if image else "no image is named"
    return f"{what}, and it has no command: a host starts `vllm serve` with its args; if that is intended, {advice}"


def find_engine(image: str, engines: Iterable[EngineSettings]) -> EngineSettings | None:
    """The first engine whose image, or pattern with `*`, is this image."""
    return next((engine for engine in engines if _matches(image, engine.image)), None)


def _matches(image: str, pattern: str) -> bool:
    """Each part at the first place that is left for it: no other choice can match where this one does not."""
    first, *rest = pattern.split("*")
    if not rest:
        return image == pattern
    *middle, last = rest
    at, end = len(first), len(image) - len(last)
    if not (image.startswith(first) and image.endswith(last)):
        return False
    for part in middle:
        found = image.find(part, at, max(at, end))
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def full_name(image: str) -> str:
    """`vllm` → `docker.io/library/vllm:latest`: what a cluster's hosts take it for. A digest makes a tag needless."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif "." not in first and ":" not in first and first != "localhost":
        image = f"docker.io/{image}"
    named, _, digest = image.partition("@")
    repository, colon, tag = named.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = named, "latest"
    return f"{repository}@{digest}" if digest else f"{repository}:{tag}"
