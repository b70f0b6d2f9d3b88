"""Whether one replica fits in memory, as every stage speaks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fit:
    """What one replica needs, what there is, and how many requests it then holds.

    Amounts are bytes for each of its `gpus`, or of the host's memory where that is 0; None is unknown. `kv_bytes` is
    what one request of `max_model_len` tokens keeps in the cache, or all of the cache where its size is known.
    `concurrency` counts such requests. `measured` means that the engine itself said so after a start. `tight`: it may
    need more than there is, or than it asks for. `line` says all of it in one line; `refusal` says why it cannot fit,
    and only when that is certain.
    """

    line: str
    gpus: int = 0
    weights_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    kv_bytes: int | None = None
    overhead_bytes: int | None = None
    have_bytes: int | None = None
    max_model_len: int | None = None
    concurrency: float | None = None
    measured: bool = False
    tight: bool = False
    notes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def need_bytes(self) -> int | None:
        """Weights, cache and overhead together."""
        if self.weights_bytes is None or self.kv_bytes is None or self.overhead_bytes is None:
            return None
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes

    @property
    def fits(self) -> bool | None:
        """True: it should. False: it certainly does not. None: unknown."""
        if self.refusal:
            return False
        if self.need_bytes is None or self.have_bytes is None:
            return None
        return True if self.need_bytes <= self.have_bytes else None
