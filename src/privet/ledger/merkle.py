"""Merkle tree of a block's transactions: its head, and short proofs about it (RFC 6962 section 2.1).

A proof is a list of 32-byte hashes. Leaves and inner nodes are hashed apart, so that neither passes for the other.
A head does not say how many entries it has, so a proof can hold for several sizes: sign the size with the head.
Verification takes what a stranger sent: it answers False and never raises for a malformed proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from privet.errors import InputError

HASH_BYTES = 32

EMPTY = hashlib.sha256().digest()
"""Head of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Returns the hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(entries: Sequence[bytes]) -> bytes:
    """Returns the tree head of entries, 32 bytes (RFC 6962 section 2.1)."""
    return _head([leaf_hash(entry) for entry in entries])


def inclusion_proof(entries: Sequence[bytes], index: int) -> list[bytes]:
    """Returns the hashes that lead from entry ``index`` to the head, lowest first (RFC 6962 section 2.1.1).

    Raises:
        InputError: there is no such entry.
    """
    if not 0 <= index < len(entries):
        raise InputError(f"no entry {index} among {len(entries)}", allowed=f"0 to {len(entries) - 1}")
    level, proof = [leaf_hash(entry) for entry in entries], []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):  # a last node without a neighbour rises as it is
            proof.append(level[beside])
        level, index = _above(level), index // 2
    return proof


def consistency_proof(entries: Sequence[bytes], old_size: int) -> list[bytes]:
    """Returns the hashes that show the first ``old_size`` entries to be where they were (RFC 6962 section 2.1.2).

    Raises:
        InputError: there are fewer entries than that, or it is negative.
    """
    if not 0 <= old_size <= len(entries):
        raise InputError(f"no head of {old_size} entries among {len(entries)}", allowed=f"0 to {len(entries)}")
    level, proof = [leaf_hash(entry) for entry in entries], []
    whole = True
    while 0 < old_size < len(level):
        half = _split(len(level))
        left, right = level[:half], level[half:]
        if old_size <= half:
            level = left
            proof.append(_head(right))
        else:
            level, old_size, whole = right, old_size - half, False
            proof.append(_head(left))
    if not whole:  # the old head is not a node of the new tree that the verifier knows
        proof.append(_head(level))
    return proof[::-1]


def verify_inclusion(entry: bytes, index: int, size: int, proof: Sequence[bytes], head: bytes) -> bool:
    """Returns whether ``entry`` is number ``index`` of the ``size`` entries under ``head`` (RFC 9162 section 2.1.3.2).

    Args:
        entry: the entry itself, not its hash.
        index: from 0.
        size: how many entries there are.
        proof: made by :func:`inclusion_proof`.
        head: the tree head that is trusted.
    """
    if not 0 <= index < size or not _hashes(proof):
        return False
    last, found = size - 1, leaf_hash(entry)
    for beside in proof:
        if last == 0:
            return False
        if index % 2 or index == last:
            found = node_hash(beside, found)
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            found = node_hash(found, beside)
        index, last = index // 2, last // 2
    return last == 0 and found == head


def verify_consistency(old_size: int, new_size: int, old_head: bytes, new_head: bytes, proof: Sequence[bytes]) -> bool:
    """Returns whether the entries under ``old_head`` are the first of those under ``new_head``.

    RFC 9162 section 2.1.4.2. Every tree grows from the empty one, whose head is :data:`EMPTY`.

    Args:
        old_size: how many entries the old tree has.
        new_size: how many the new one has.
        old_head: head that was seen before.
        new_head: head that is seen now.
        proof: made by :func:`consistency_proof`.
    """
    if not 0 <= old_size <= new_size or not _hashes(proof):
        return False
    if old_size in (0, new_size):
        return not proof and old_head == (EMPTY if old_size == 0 else new_head)
    path = list(proof)
    index, last = old_size - 1, new_size - 1
    while index % 2:
        index, last = index // 2, last // 2
    if index == 0:  # the old tree is whole in the new one
        path.insert(0, old_head)
    if not path:
        return False
    old = new = path[0]
    for beside in path[1:]:
        if last == 0:
            return False
        if index % 2 or index == last:
            old, new = node_hash(beside, old), node_hash(beside, new)
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            new = node_hash(new, beside)
        index, last = index // 2, last // 2
    return last == 0 and old == old_head and new == new_head


def _head(level: list[bytes]) -> bytes:
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else EMPTY


def _above(level: list[bytes]) -> list[bytes]:
    pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[2 * len(pairs) :]


def _split(size: int) -> int:
    """Largest power of two smaller than ``size``."""
    return 1 << (size - 1).bit_length() - 1


def _hashes(proof: Sequence[bytes]) -> bool:
    return all(isinstance(each, bytes) and len(each) == HASH_BYTES for each in proof)
