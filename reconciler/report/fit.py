"""A service's fit in memory as data. Pure."""

from __future__ import annotations

from typing import Any

from reconciler.model import Fit
from reconciler.report.redact import scrub_text


def fit_document(fit: Fit | None) -> dict[str, Any] | None:
    """Bytes for each GPU, or of the host's memory where `gpus` is 0; None if not measured yet."""
    if fit is None:
        return None
    return {
        "line": scrub_text(fit.line),
        "fits": fit.fits,
        "tight": fit.tight,
        "measured": fit.measured,
        "gpus": fit.gpus,
        "weightsBytes": fit.weights_bytes,
        "kvBytes": fit.kv_bytes,
        "kvBytesPerToken": fit.kv_bytes_per_token,
        "overheadBytes": fit.overhead_bytes,
        "needBytes": fit.need_bytes,
        "haveBytes": fit.have_bytes,
        "maxModelLen": fit.max_model_len,
        "concurrency": None if fit.concurrency is None else round(fit.concurrency, 2),
        "notes": [scrub_text(note) for note in fit.notes],
    }
