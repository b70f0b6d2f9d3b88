"""Kubernetes quantities: what is one, how much it is, and how the API server writes it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_SHAPE = re.compile(
    r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?(?:\d+(?:\.\d*)?|\.\d+)))?", re.ASCII
)
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX_OF = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_MAX_DIGITS = 64


def is_quantity(value: object) -> bool:
    """True for what the API server accepts as a quantity: a number or text such as `500m`, `24Gi`, `1e3`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    text = str(value)
    return len(text) <= _MAX_DIGITS and _amount(text) is not None


def amount(value: object) -> Decimal:
    """How much a quantity is. Raises ValueError."""
    found = _amount(str(value)) if len(str(value)) <= _MAX_DIGITS else None
    if found is None:
        raise ValueError(f'"{value}" is not a quantity; write for example 500m, 2, 1.5 or 48Gi')
    return found


def is_whole(value: Decimal) -> bool:
    """A remainder would have to be exact in 28 digits: Decimal raises for larger quantities."""
    return value == value.to_integral_value()


def cpu_millis(value: object) -> int:
    """Thousandths of a core, rounded up as Kubernetes does. Raises ValueError."""
    return _whole(amount(value) * 1000, value)


def memory_bytes(value: object) -> int:
    """Bytes, rounded up as Kubernetes does. Raises ValueError."""
    return _whole(amount(value), value)


def _whole(exact: Decimal, value: object) -> int:
    if exact < 0:
        raise ValueError(f'"{value}" is negative')
    return int(exact.to_integral_value(ROUND_CEILING))


@lru_cache(4096)
def _amount(text: str) -> Decimal | None:
    match = _SHAPE.fullmatch(text)
    if not match:
        return None
    sign, number, binary, decimal, exponent = match.groups()
    result = Decimal(sign + number)
    if binary:
        return result * Decimal(1024 ** _BINARY[binary])
    if exponent is not None:
        # Go accepts only whole exponents of modest size.
        return result.scaleb(int(exponent)) if re.fullmatch(r"[+-]?\d{1,2}", exponent) else None
    return result.scaleb(_DECIMAL[decimal or ""])


@lru_cache(4096)
def canonical(value: str | int | float) -> str:
    """The quantity as the API server writes it back: `1000m` is `1`, `1024Mi` is `1Gi`, `0.5` is `500m`."""
    text = str(value)
    found = _amount(text) if len(text) <= _MAX_DIGITS else None
    match = _SHAPE.fullmatch(text)
    if found is None or match is None:
        return text
    if found and match[3] and abs(found) >= 1024 and is_whole(found):
        return _binary(int(found))
    if match[5] is not None:
        return _scaled(found, lambda exponent: f"e{exponent}" if exponent else "")
    return _scaled(found, lambda exponent: _SUFFIX_OF[exponent])


def _binary(whole: int) -> str:
    for suffix in reversed(_BINARY):
        unit = 1024 ** _BINARY[suffix]
        if whole % unit == 0:
            return f"{whole // unit}{suffix}"
    return str(whole)


def _scaled(value: Decimal, suffix: Callable[[int], str]) -> str:
    """The shortest whole number with an exponent that is a multiple of three; finer than nano rounds up."""
    nano = (value.scaleb(9)).to_integral_value(ROUND_CEILING)
    if nano == 0:
        return "0"
    exponent, digits = -9, int(nano)
    while digits % 1000 == 0 and exponent < 18:
        digits, exponent = digits // 1000, exponent + 3
    return f"{digits}{suffix(exponent)}"
