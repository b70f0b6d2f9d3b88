"""What can be handed to a process at all: the sizes and characters of its arguments and variables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

# The kernel's limit for one string, with its last byte (MAX_ARG_STRLEN: 32 pages of 4 KiB).
LONGEST_STRING = 131_072
# Of vLLM 0.32: a ring of ten pieces, each so many MiB unless configured otherwise.
_PIECES, _PIECE_MIB = 10, "16"
# The kernel stores a pointer to each string in addition.
_POINTER = 8


def unfit_argument(text: str) -> str:
    """Why an argument cannot be handed over; empty when it can."""
    fault = _fault(text, text)
    return fault and f"the argument {_start_of(text)} {fault}"


def unfit_variables(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that cannot be handed over, and why. No message holds a value."""
    for name, value in env.items():
        if not name or "=" in name:
            yield name, f"{name!a} cannot be the name of a variable"
        elif fault := _fault(f"{name}={value}", value):
            yield name, f"variable {name} {fault}"


def too_large(argv: Iterable[str], env: Mapping[str, str], most: int) -> str:
    """Why arguments and variables together cannot be handed over; empty when they can."""
    strings = (*argv, *(f"{name}={value}" for name, value in env.items()))
    size = sum(len(_encoded(each) or b"") + 1 + _POINTER for each in strings)
    return f"its arguments and variables have {size:,} bytes, and {most:,} are possible" if size > most else ""


def ring_bytes(env: Mapping[str, str]) -> int:
    """The shared memory that vLLM insists on before it starts workers in processes of their own."""
    piece = env.get("VLLM_MQ_MAX_CHUNK_BYTES_MB", _PIECE_MIB)
    return _PIECES * (int(piece) << 20) if piece.isdecimal() and len(piece) < 7 else 0


def _fault(string: str, shown: str) -> str:
    if "\0" in string:
        return "holds a NUL character, which ends every string of a process; remove it"
    encoded = _encoded(string)
    if encoded is None:
        at = next(index for index, each in enumerate(shown) if "\ud800" <= each <= "\udfff")
        return f"holds half a character (U+{ord(shown[at]):04X}, at position {at + 1}); remove it"
    if len(encoded) >= LONGEST_STRING:
        return (
            f"has {len(encoded):,} bytes, and no process takes more than {LONGEST_STRING - 1:,} in one; "
            "put it into a file (a mounted Secret or the model's folder) and name that"
        )
    return ""


def _encoded(string: str) -> bytes | None:
    try:
        return string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def _start_of(token: str) -> str:
    shown = token.partition("=")[0] if token.startswith("-") else token
    return ascii(shown) if len(shown) <= 60 else f"{shown[:60]!a}…"
