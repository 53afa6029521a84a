"""Deterministic CBOR: the vectors of RFC 8949, one encoding per value, nothing else accepted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.errors import InputError
from privet.ledger.encoding import DEPTH, decode, encode, from_natural, natural

# RFC 8949, appendix A, those of the subset.
VECTORS = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (bytes([1, 2, 3, 4]), "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    ({c: c.upper() for c in "abcde"}, "a56161614161626142616361436164614461656145"),
]

# The same appendix and section 3: well-formed CBOR that is not of the subset, or not the shortest.
REFUSED = {
    "float 0.0": "f90000",
    "float 1.1": "fb3ff199999999999a",
    "float nan": "f97e00",
    "undefined": "f7",
    "simple(16)": "f0",
    "simple(255)": "f8ff",
    "bignum": "c249010000000000000000",
    "tag": "c11a514b67b0",
    "link": "d82a4101",
    "integer keys": "a201020304",
    "open bytes": "5f42010243030405ff",
    "open list": "9fff",
    "open map": "bf61610161629f0203ffff",
    "0 in two bytes": "1800",
    "23 in two bytes": "1817",
    "255 in three bytes": "1900ff",
    "65535 in five bytes": "1a0000ffff",
    "2^32 - 1 in nine bytes": "1b00000000ffffffff",
    "long head of text": "780161",
    "keys out of order": "a2616201616101",
    "longer key first": "a2626161016162 01".replace(" ", ""),
    "key twice": "a2616101616102",
    "not UTF-8": "61ff",
    "surrogate": "63eda080",
    "trailing byte": "0000",
    "reserved 28": "1c",
    "break alone": "ff",
    "empty": "",
    "text cut short": "62c3",
    "head cut short": "19ff",
    "list cut short": "8201",
    "map cut short": "a16161",
    "a promise of 2^64 items": "9bffffffffffffffff",
}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=26), inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(("value", "data"), VECTORS, ids=[data[:12] for _, data in VECTORS])
def test_vector_of_the_rfc(value, data):
    assert encode(value).hex() == data
    back = decode(bytes.fromhex(data))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(data):
    with pytest.raises(InputError, match="of the encoding"):
        decode(bytes.fromhex(data))


def test_keys_are_sorted_shorter_first_as_dag_cbor_wants():
    assert list(decode(encode({"aa": 1, "b": 2, "": 3, "a": 4}))) == ["", "a", "b", "aa"]


@given(values)
def test_round_trip(value):
    assert decode(encode(value)) == value


@given(values, st.randoms())
def test_the_order_of_keys_in_memory_does_not_matter(value, random):
    def shuffled(value):
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if isinstance(value, dict):
            pairs = [(key, shuffled(item)) for key, item in value.items()]
            random.shuffle(pairs)
            return dict(pairs)
        return value

    assert encode(shuffled(value)) == encode(value)


@given(values, values)
def test_different_values_differ(first, second):
    assert (encode(first) == encode(second)) == (repr_of(first) == repr_of(second))


def repr_of(value):
    """Equality that tells True from 1."""
    if isinstance(value, list):
        return [repr_of(item) for item in value]
    if isinstance(value, dict):
        return {key: repr_of(item) for key, item in value.items()}
    return type(value), value


@given(st.binary(max_size=60))
def test_what_is_accepted_is_the_one_encoding(data):
    try:
        value = decode(data)
    except InputError:
        return
    assert encode(value) == data


@given(values, st.data())
def test_changed_bytes_are_refused_or_another_value(value, data):
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(encoded))
    except InputError:
        return
    assert repr_of(changed) != repr_of(value)


def test_every_two_bytes():
    accepted = 0
    for pair in itertools.product(range(256), repeat=2):
        try:
            assert encode(decode(bytes(pair))) == bytes(pair)
        except InputError:
            continue
        accepted += 1
    # Integers 24 to 255 and their negatives; byte strings and ASCII texts of one byte; lists of one short item.
    assert accepted == 2 * 232 + 256 + 128 + (24 + 24 + 1 + 1 + 1 + 1 + 3)


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), 2**64, -(2**64) - 1, {1: 2}, {b"a": 1}, (1, 2), {1, 2}, "\ud800", {"\ud800": 1}, [1.5], object],
    ids=str,
)
def test_values_outside_the_subset_are_refused(value):
    with pytest.raises(InputError):
        encode(value)


def test_subclasses_of_integers_and_text_are_refused():
    import enum

    import numpy as np

    class Word(enum.StrEnum):
        A = "a"

    for value in (np.int64(1), np.float64(1), Word.A, {Word.A: 1}):
        with pytest.raises(InputError):
            encode(value)


def test_depth_is_bounded_both_ways():
    deep: list[object] = []
    for _ in range(DEPTH):
        deep = [deep]
    assert decode(encode(deep)) == deep
    with pytest.raises(InputError, match="nested deeper"):
        encode([deep])
    with pytest.raises(InputError, match="nested deeper"):
        decode(b"\x81" * 100_000 + b"\x80")


@given(st.integers(0, 2**200))
def test_naturals_of_any_size(value):
    assert from_natural(natural(value)) == value


def test_a_leading_zero_is_refused():
    assert natural(0) == b""
    with pytest.raises(InputError, match="leading zero"):
        from_natural(b"\x00\x01")
