"""One encoding for each value: deterministic CBOR, as everything that is hashed, signed or agreed on needs it.

The subset is that of DAG-CBOR without links: null, booleans, integers of 64 bits and a sign, bytes, text,
lists, and maps with text keys. There are no floats, no tags and no lengths left open: two machines
must never disagree about the bytes of a value.

References:
    RFC 8949, sections 3 (data items) and 4.2.1 (core deterministic encoding); DAG-CBOR specification, "Strictness".
"""

from __future__ import annotations

from typing import TypeAlias

from privet.errors import InputError

Value: TypeAlias = "bool | int | str | bytes | list[Value] | dict[str, Value] | None"
"""What can be encoded."""

DEPTH = 16
"""How deep lists and maps may nest; deeper ones are refused before they fill the stack."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP = range(6)
_SIMPLE = {0xF4: False, 0xF5: True, 0xF6: None}


def encode(value: Value) -> bytes:
    """Returns the one encoding of a value.

    >>> encode({"b": [1, -1], "a": b"x"}).hex()
    'a2616141786162820120'

    Raises:
        InputError: the value is not of the subset: a float, an integer beyond 64 bits, a key that is not text, ...
    """
    out = bytearray()
    _write(out, value, 0)
    return bytes(out)


def decode(data: bytes) -> Value:
    """Returns the value that ``data`` is the one encoding of.

    For every ``data`` that is accepted, ``encode(decode(data)) == data``.

    Raises:
        InputError: the bytes are no encoding of the subset, or not the one that :func:`encode` gives.
    """
    value, end = _read(data, 0, 0)
    if end != len(data):
        raise _refuse(end, "bytes after the end of the value")
    return value


def natural(value: int) -> bytes:
    """Returns a number of any size as big-endian bytes without leading zeros; 0 has none.

    Sums of squares outgrow the 64 bits of a CBOR integer.
    """
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def from_natural(data: bytes) -> int:
    """Returns the number that :func:`natural` wrote.

    Raises:
        InputError: there is a leading zero, so these are not the one encoding.
    """
    if data[:1] == b"\x00":
        raise InputError("a number with a leading zero byte", allowed="the shortest big-endian bytes")
    return int.from_bytes(data, "big")


def _write(out: bytearray, value: Value, depth: int) -> None:
    if depth > DEPTH:
        raise InputError(f"a value nested deeper than {DEPTH} can't be encoded")
    # The exact types: subclasses (numpy's integers, str enums) may print alike and encode otherwise.
    if value is None or type(value) is bool:
        out.append(0xF6 if value is None else 0xF4 + value)
    elif type(value) is int:
        _head(out, _UNSIGNED if value >= 0 else _NEGATIVE, value if value >= 0 else -1 - value)
    elif type(value) is bytes:
        _head(out, _BYTES, len(value))
        out += value
    elif type(value) is str:
        text = _utf8(value)
        _head(out, _TEXT, len(text))
        out += text
    elif type(value) is list:
        _head(out, _LIST, len(value))
        for item in value:
            _write(out, item, depth + 1)
    elif type(value) is dict:
        _write_map(out, value, depth)
    else:
        raise InputError(
            f"a {type(value).__name__} can't be encoded",
            allowed="None, bool, int, bytes, str, list and dict; never a float",
        )


def _write_map(out: bytearray, value: dict[str, Value], depth: int) -> None:
    if not all(type(key) is str for key in value):
        raise InputError("a map has a key that is not text")
    _head(out, _MAP, len(value))
    # Shorter keys first, then by bytes: for text keys the same as the bytewise order of RFC 8949, 4.2.1.
    for text, key in sorted(((_utf8(key), key) for key in value), key=lambda pair: (len(pair[0]), pair[0])):
        _head(out, _TEXT, len(text))
        out += text
        _write(out, value[key], depth + 1)


def _head(out: bytearray, major: int, argument: int) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            out.append(major << 5 | extra)
            out += argument.to_bytes(size, "big")
            return
    raise InputError("an integer beyond 64 bits can't be encoded", allowed="-2^64 to 2^64 - 1")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError("text with half a surrogate pair can't be encoded") from None


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > DEPTH:
        raise _refuse(at, f"nested deeper than {DEPTH}")
    if at >= len(data):
        raise _refuse(at, "the data ends too early")
    first = data[at]
    if first in _SIMPLE:
        return _SIMPLE[first], at + 1
    major, argument, at = _read_head(data, at)
    if major == _UNSIGNED:
        return argument, at
    if major == _NEGATIVE:
        return -1 - argument, at
    # Each item takes a byte or more, so a length beyond what is left is refused before anything is reserved for it.
    if argument > len(data) - at:
        raise _refuse(at, "the data ends too early")
    if major == _BYTES:
        return data[at : at + argument], at + argument
    if major == _TEXT:
        return _read_text(data, at, argument)
    if major == _LIST:
        items: list[Value] = []
        for _ in range(argument):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return items, at
    return _read_map(data, at, argument, depth)


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    major, extra = data[at] >> 5, data[at] & 31
    if major > _MAP or extra > 27:
        raise _refuse(at, f"byte {data[at]:#04x} begins a float, a tag, an open length or an unknown value")
    if extra < 24:
        return major, extra, at + 1
    size = 1 << (extra - 24)
    argument = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    if at + 1 + size > len(data):
        raise _refuse(at, "the data ends too early")
    if argument < 24 or (size > 1 and argument < 1 << 4 * size):
        raise _refuse(at, "a length or integer is not in its shortest form")
    return major, argument, at + 1 + size


def _read_text(data: bytes, at: int, length: int) -> tuple[str, int]:
    try:
        return data[at : at + length].decode(), at + length
    except UnicodeDecodeError:
        raise _refuse(at, "text that is not UTF-8") from None


def _read_map(data: bytes, at: int, pairs: int, depth: int) -> tuple[dict[str, Value], int]:
    found: dict[str, Value] = {}
    previous = b""
    for _ in range(pairs):
        start = at
        key, at = _read(data, at, depth + 1)
        if type(key) is not str:
            raise _refuse(start, "a key that is not text")
        if data[start:at] <= previous:
            raise _refuse(start, "keys that repeat or are out of order")
        previous = data[start:at]
        found[key], at = _read(data, at, depth + 1)
    return found, at


def _refuse(at: int, why: str) -> InputError:
    return InputError(f"byte {at} of the encoding: {why}", allowed="deterministic CBOR of the ledger's subset")
