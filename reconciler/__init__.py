"""GitOps for vLLM: KServe manifests in git become served models."""

__version__ = "0.1.0"
