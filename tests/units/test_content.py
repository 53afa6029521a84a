"""Content addresses: those of Kubo, of aleph-cid and of a slow twin, around every boundary."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import aleph_cid
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as some
from multiformats import CID, varint

from privet.errors import ContentError
from privet.ledger.content import (
    PROFILES,
    Profile,
    chunks,
    cid_of,
    cid_of_chunks,
    cid_of_file,
    decode_cid,
    encode_cid,
    profile_of,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "cids.json").read_text())
CHUNK, LINKS = 256 * 1024, 174
BOUNDARIES = [0, CHUNK, 2 * CHUNK, (LINKS - 1) * CHUNK, LINKS * CHUNK, (LINKS + 1) * CHUNK]
LARGEST = 50_000_000


def keystream(seed, size):
    stream = Cipher(algorithms.ChaCha20(hashlib.sha256(seed.encode()).digest(), bytes(16)), None).encryptor()
    for start in range(0, size, 2**20):
        yield stream.update(bytes(min(2**20, size - start)))


@functools.cache
def some_bytes():
    return b"".join(keystream("sizes", LARGEST))


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: f"{vector['bytes']} bytes")
def test_addresses_of_kubos_own_tests(vector):
    profile = PROFILES[vector["profile"]]
    assert cid_of_chunks(keystream(vector["seed"], vector["bytes"]), profile) == vector["cid"]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: repr(vector["text"]))
def test_what_fits_one_chunk_has_one_address(vector, profile):
    assert cid_of(vector["text"].encode(), profile) == vector["cid"]


@pytest.mark.parametrize(
    "size", [1, 1000, *(at + by for at in BOUNDARIES for by in (-1, 0, 1) if at + by > 0), LARGEST]
)
def test_addresses_of_aleph_cid_from_1_byte_to_50_mb(size):
    theirs = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    theirs.update(some_bytes()[:size])
    ours = cid_of(some_bytes()[:size])
    assert decode_cid(ours) == bytes(CID.decode(theirs.finalize()))


def slow_cid(data, profile):
    """Kubo's way: the tree's depth first, then every subtree filled from the left; protobuf by hand."""
    leaves = [data[at : at + profile.chunk] for at in range(0, len(data), profile.chunk)] or [b""]
    depth = 0
    while profile.links**depth < len(leaves):
        depth += 1
    return slow_tree(leaves, depth, profile)[0]


def slow_tree(leaves, depth, profile):
    if depth == 0:
        return CID("base32", 1, "raw", ("sha2-256", hashlib.sha256(leaves[0]).digest())), *[len(leaves[0])] * 2
    full = profile.links ** (depth - 1)
    below = [slow_tree(leaves[at : at + full], depth - 1, profile) for at in range(0, len(leaves), full)]
    block = b""
    for cid, _, stored in below:
        link = b"\x0a\x24" + bytes(cid) + b"\x12\x00\x18" + varint.encode(stored)
        block += b"\x12" + varint.encode(len(link)) + link
    content = sum(size for _, size, _ in below)
    unixfs = b"\x08\x02\x18" + varint.encode(content) + b"".join(b"\x20" + varint.encode(size) for _, size, _ in below)
    block += b"\x0a" + varint.encode(len(unixfs)) + unixfs
    cid = CID("base32", 1, "dag-pb", ("sha2-256", hashlib.sha256(block).digest()))
    return cid, content, len(block) + sum(stored for _, _, stored in below)


@given(data=some.binary(max_size=150), chunk=some.integers(1, 5), links=some.integers(2, 5))
@settings(max_examples=200)
def test_equals_its_slow_twin_at_every_depth(data, chunk, links):
    profile = Profile("small", chunk, links)
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    assert cid_of_chunks(pieces, profile) == str(slow_cid(data, profile))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_file_has_the_address_of_its_bytes(tmp_path, profile):
    path = tmp_path / "model"
    for size in (0, 1, 3_000_000):
        path.write_bytes(some_bytes()[:size])
        assert cid_of_file(path, profile) == cid_of(some_bytes()[:size], profile)
    assert cid_of(some_bytes()[:3_000_000]) != cid_of(some_bytes()[:3_000_000], "unixfs-v1-2025")
    with path.open("rb") as file:
        assert b"".join(chunks(file, PROFILES[profile])) == some_bytes()[:3_000_000]


def test_every_byte_counts():
    data = bytearray(some_bytes()[: 2 * CHUNK + 1])
    before = cid_of(bytes(data))
    for place in (0, CHUNK - 1, CHUNK, 2 * CHUNK):
        data[place] ^= 1
        assert cid_of(bytes(data)) != before
        data[place] ^= 1


def test_an_address_is_read_back_and_is_what_multiformats_reads():
    for text in (cid_of(b"one"), cid_of(some_bytes()[: CHUNK + 1])):
        assert encode_cid(decode_cid(text)) == text
        read = CID.decode(text)
        assert bytes(read) == decode_cid(text)
        assert str(read) == text
    assert CID.decode(cid_of(b"one")).codec.name == "raw"
    assert CID.decode(cid_of(some_bytes()[: CHUNK + 1])).codec.name == "dag-pb"


def test_what_is_no_address_is_refused():
    good = cid_of(b"one")
    cbor = str(CID("base32", 1, "dag-cbor", ("sha2-256", bytes(32))))
    other_hash = encode_cid(b"\x01\x55\x16\x20" + bytes(32))  # sha3-256
    last = "abcdefghijklmnopqrstuvwxyz234567"
    loose = good[:-1] + last[last.index(good[-1]) ^ 1]  # the last letter has bits that say nothing
    wrong = ["", "b", good[:-1], good + "a", good.upper(), "z" + good[1:], "../" + good, good[:9] + "1" + good[10:]]
    wrong += ["é" * 59, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD", cbor, other_hash, loose, good[:-1] + "\n"]
    for text in wrong:
        with pytest.raises(ContentError, match="is not an address"):
            decode_cid(text)


def test_an_unknown_profile_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ContentError, match="no profile called 'unixfs-v1'; allowed: unixfs-v0-2015, unixfs-v1-2025"):
        profile_of("unixfs-v1")
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ContentError, match="is not a file"):
            cid_of_file(path)
