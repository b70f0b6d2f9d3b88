"""Kubernetes quantities: `500m`, `2`, `48Gi`. Pure."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]))?")
_SUFFIX: dict[str, Decimal] = {
    **{name: Decimal(1000) ** power for power, name in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
    **{name: Decimal(1000) ** -power for power, name in enumerate(("m", "u", "n"), start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """The exact value of a Kubernetes quantity. Raises ValueError."""
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}" is not a quantity; write for example 500m, 2, 1.5 or 48Gi')
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _SUFFIX[suffix or ""]


def parse_cpu(text: str) -> int:
    """Thousandths of a core, rounded up as Kubernetes does. Raises ValueError."""
    return _whole(parse_quantity(text) * 1000, text)


def parse_memory(text: str) -> int:
    """Bytes, rounded up as Kubernetes does. Raises ValueError."""
    return _whole(parse_quantity(text), text)


def _whole(value: Decimal, text: str) -> int:
    if value < 0:
        raise ValueError(f'"{text}" is negative')
    return int(value.to_integral_value(ROUND_CEILING))
