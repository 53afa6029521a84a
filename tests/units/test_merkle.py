"""Tree heads and proofs: the published vectors, the RFC's own recursion as a slow twin, and what must not verify."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.errors import InputError
from privet.ledger import merkle

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc6962.json").read_text())
ENTRIES = [bytes.fromhex(entry) for entry in VECTORS["entries"]]
HEADS = [bytes.fromhex(head) for head in VECTORS["heads"]]


def proof_of(vector):
    return [bytes.fromhex(each) for each in vector["proof"]]


def distinct(size):
    return [f"entry {number}".encode() for number in range(size)]


# The definitions of RFC 6962 sections 2.1, 2.1.1 and 2.1.2, word for word.


def split(size):
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def slow_root(entries):
    if not entries:
        return merkle.EMPTY
    if len(entries) == 1:
        return merkle.leaf_hash(entries[0])
    k = split(len(entries))
    return merkle.node_hash(slow_root(entries[:k]), slow_root(entries[k:]))


def slow_path(m, entries):
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*slow_path(m, entries[:k]), slow_root(entries[k:])]
    return [*slow_path(m - k, entries[k:]), slow_root(entries[:k])]


def slow_subproof(m, entries, whole):
    if m == len(entries):
        return [] if whole else [slow_root(entries)]
    k = split(len(entries))
    if m <= k:
        return [*slow_subproof(m, entries[:k], whole), slow_root(entries[k:])]
    return [*slow_subproof(m - k, entries[k:], False), slow_root(entries[:k])]


@pytest.mark.parametrize("size", range(9))
def test_heads_of_the_vectors(size):
    assert merkle.root(ENTRIES[:size]) == HEADS[size]


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['index']} of {v['size']}")
def test_inclusion_proofs_of_the_vectors(vector):
    index, size, proof = vector["index"], vector["size"], proof_of(vector)
    assert merkle.inclusion_proof(ENTRIES[:size], index) == proof
    assert merkle.verify_inclusion(ENTRIES[index], index, size, proof, HEADS[size])


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda v: f"{v['old']} to {v['new']}")
def test_consistency_proofs_of_the_vectors(vector):
    old, new, proof = vector["old"], vector["new"], proof_of(vector)
    assert merkle.consistency_proof(ENTRIES[:new], old) == proof
    assert merkle.verify_consistency(old, new, HEADS[old], HEADS[new], proof)


def test_a_leaf_is_no_node_and_a_node_no_leaf():
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.root([b"a", b"b"]) != merkle.root([left + right])
    assert merkle.root([b"a", b"b"]) != merkle.root([b"\x01" + left + right])


@pytest.mark.parametrize("size", range(1, 18))
def test_proofs_are_those_of_the_rfcs_recursion(size):
    entries = distinct(size)
    head = merkle.root(entries)
    assert head == slow_root(entries)
    for place in range(size):
        assert merkle.inclusion_proof(entries, place) == slow_path(place, entries)
        old, found = place + 1, merkle.consistency_proof(entries, place + 1)
        assert found == slow_subproof(old, entries, True)
        assert merkle.verify_consistency(old, size, slow_root(entries[:old]), head, found)


def turns(m, size):
    """On which side of each node entry m lies, from the leaf up: the shape of its proof."""
    if size == 1:
        return []
    k = split(size)
    return [*turns(m, k), "left"] if m < k else [*turns(m - k, size - k), "right"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 8, 13, 16])
def test_an_entry_is_included_at_its_index_only(size):
    entries = distinct(size)
    head = merkle.root(entries)
    for index in range(size):
        proof = merkle.inclusion_proof(entries, index)
        for other in range(-1, size + 2):
            assert merkle.verify_inclusion(entries[index], other, size, proof, head) == (other == index)
        for wrong in range(20):  # a head does not say how many entries it has, so a proof of the same shape holds
            alike = index < wrong and turns(index, wrong) == turns(index, size)
            assert merkle.verify_inclusion(entries[index], index, wrong, proof, head) == alike


@given(data=some.data(), size=some.integers(1, 40))
@settings(max_examples=150)
def test_an_inclusion_proof_with_anything_wrong_fails(data, size):
    entries = distinct(size)
    index, head = data.draw(some.integers(0, size - 1)), merkle.root(entries)
    proof = merkle.inclusion_proof(entries, index)

    def holds(entry=entries[index], index=index, size=size, proof=proof, head=head):
        return merkle.verify_inclusion(entry, index, size, proof, head)

    assert holds()
    assert not holds(entry=entries[index] + b"!")
    assert not holds(entry=merkle.leaf_hash(entries[index]))
    assert not holds(head=flipped(head, data))
    assert not holds(proof=[*proof, head])
    assert not holds(index=index + size)
    assert not holds(index=index - size)
    if proof:
        place = data.draw(some.integers(0, len(proof) - 1))
        assert not holds(proof=[*proof[:place], flipped(proof[place], data), *proof[place + 1 :]])
        assert not holds(proof=[*proof[:place], *proof[place + 1 :]])
        assert not holds(proof=[*proof[:place], proof[place][:-1], *proof[place + 1 :]])


@given(data=some.data(), new=some.integers(1, 40))
@settings(max_examples=150)
def test_a_consistency_proof_with_anything_wrong_fails(data, new):
    entries = distinct(new)
    old = data.draw(some.integers(1, new))
    heads = (merkle.root(entries[:old]), merkle.root(entries))
    proof = merkle.consistency_proof(entries, old)

    def holds(old=old, new=new, heads=heads, proof=proof):
        return merkle.verify_consistency(old, new, *heads, proof)

    assert holds()
    assert not holds(heads=(flipped(heads[0], data), heads[1]))
    assert not holds(heads=(heads[0], flipped(heads[1], data)))
    assert not holds(proof=[*proof, heads[0]])
    assert not holds(old=-1)
    assert not holds(old=new + 1)
    rewritten = merkle.root([b"rewritten", *entries[1:]])
    assert not holds(heads=(heads[0], rewritten))
    for wrong in {n for n in range(1, 42)} - {old}:
        assert not holds(old=wrong) or wrong == new == old
    if proof:
        place = data.draw(some.integers(0, len(proof) - 1))
        assert not holds(proof=[*proof[:place], flipped(proof[place], data), *proof[place + 1 :]])
        assert not holds(proof=[*proof[:place], *proof[place + 1 :]])
        assert not holds(proof=[*proof[:place], proof[place] + b"\0", *proof[place + 1 :]])


def flipped(value, data):
    bit = data.draw(some.integers(0, 8 * len(value) - 1))
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_wrong_new_size_fails_where_it_changes_the_shape():
    entries = distinct(13)
    proof = merkle.consistency_proof(entries, 6)
    heads = merkle.root(entries[:6]), merkle.root(entries)
    # 6 in 9 to 16 have one shape: a head does not say how many entries it has; what is signed must.
    holds = {new for new in range(40) if merkle.verify_consistency(6, new, *heads, proof)}
    assert holds == set(range(9, 17))


def test_from_the_empty_tree():
    head = merkle.root(distinct(3))
    assert merkle.consistency_proof(distinct(3), 0) == []
    assert merkle.verify_consistency(0, 3, merkle.EMPTY, head, [])
    assert merkle.verify_consistency(0, 0, merkle.EMPTY, merkle.EMPTY, [])
    assert not merkle.verify_consistency(0, 3, head, head, [])
    assert not merkle.verify_consistency(0, 3, merkle.EMPTY, head, [head])


def test_chains_of_consistency_hold_step_by_step():
    entries = distinct(20)
    for old, new in pairwise([1, 2, 4, 7, 8, 13, 20]):
        heads = merkle.root(entries[:old]), merkle.root(entries[:new])
        assert merkle.verify_consistency(old, new, *heads, merkle.consistency_proof(entries[:new], old))


def test_what_there_is_no_proof_of_is_refused():
    for index in (-1, 3):
        with pytest.raises(InputError, match=f"no entry {index} among 3"):
            merkle.inclusion_proof(distinct(3), index)
    for size in (-1, 4):
        with pytest.raises(InputError, match=f"no head of {size} entries among 3"):
            merkle.consistency_proof(distinct(3), size)


def test_what_a_stranger_sends_never_raises():
    head = merkle.root(distinct(3))
    for proof in ([b""], ["text"], [None], [b"x" * 33]):
        assert not merkle.verify_inclusion(b"entry 0", 0, 3, proof, head)
        assert not merkle.verify_consistency(1, 3, head, head, proof)
    assert not merkle.verify_consistency(3, 5, head, head, [])
    assert not merkle.verify_inclusion(b"entry 0", 0, 0, [], head)
