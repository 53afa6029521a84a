"""Who may propose a block: a private draw weighted by stake, in whole numbers only.

Section IV.A of Zhao and others ("Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices") draws for
each miner how many units of its stake ("sub-users") are chosen, from its VRF output, and lets the largest number
lead. Read here with two corrections, both measured in ``docs/explanation/ledger.md``:

- the number is the smallest ``j`` with ``u < F(j)``, F the binomial distribution function; the document's interval
  is off by one, so that it has no answer for ``u < F(0)``;
- the number of chosen units is not in proportion to stake as a priority. Each chosen unit gets a hash, and the
  smallest hash leads (Gilad and others, "Algorand", section 6); ``count`` stays as the document's policy.

No float touches what miners must agree on: a float's tail rounds ``u`` to 1 and chooses every unit there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from privet.crypto import ecvrf
from privet.errors import InputError

Policy = Literal["min-hash", "count"]
"""What makes a proposer lead: the smallest hash of its chosen units, or how many were chosen."""

POLICIES: tuple[Policy, ...] = get_args(Policy)

EXPECTED = 26
"""How many units are chosen on average, as in Algorand; in less than one of 10^11 rounds nobody is chosen."""

MAX_STAKE = 10_000
"""Most units of one miner: a draw with that many takes milliseconds, and many more would stall every miner."""


def chosen_units(output: bytes, stake: int, total: int, expected: int = EXPECTED) -> int:
    """Returns how many of a miner's units of stake a VRF output chooses: the smallest j with u < F(j).

    ``u = output / 2^bits`` and F is the distribution function of Binomial(stake, expected / total). Both sides are
    compared as whole numbers: ``output * total^stake < 2^bits * sum_{k<=j} C(stake, k) expected^k
    (total - expected)^(stake - k)``.

    Args:
        output: the VRF output, read as a big-endian number; any length but 0.
        stake: the miner's units, 0 to :data:`MAX_STAKE`.
        total: all miners' units.
        expected: how many units of all are chosen on average, 1 to ``total``.

    Returns:
        0 to ``stake``, the same on every machine.

    Raises:
        InputError: a number is outside these ranges.
    """
    if not output or not 0 <= stake <= min(total, MAX_STAKE) or not 1 <= expected <= total:
        raise InputError(
            f"no draw with a stake of {stake} of {total}, {expected} expected, from {len(output)} bytes",
            allowed=f"0 <= stake <= total, stake <= {MAX_STAKE}, 1 <= expected <= total, an output",
        )
    if expected == total:
        return stake
    others = total - expected
    bound = int.from_bytes(output, "big") * total**stake >> 8 * len(output)
    term = below = others**stake
    chosen = 0
    while below <= bound:  # ends: the last sum is total^stake, and bound is smaller
        term = term * (stake - chosen) * expected // ((chosen + 1) * others)
        chosen += 1
        below += term
    return chosen


def priority(policy: Policy, output: bytes, units: int) -> bytes:
    """Returns a proposer's priority; of all proposers, the one with the smallest leads.

    Under ``min-hash`` it is the smallest of sha256(output, i) for i = 1 to ``units``: i starts at 1 and hashes
    anew, since the output itself is large for those whom it chose. Under ``count`` more units lead, and the same
    hash breaks ties.

    Raises:
        InputError: no unit was chosen, or the policy is unknown.
    """
    if units < 1:
        raise InputError("a miner of whom no unit was chosen has no priority")
    if policy not in POLICIES:
        raise InputError(f"no priority called {policy!r}", allowed=", ".join(POLICIES))
    hashes = (hashlib.sha256(b"privet priority\0" + output + i.to_bytes(8, "big")) for i in range(1, units + 1))
    smallest = min(each.digest() for each in hashes)
    return smallest if policy == "min-hash" else (MAX_STAKE - units).to_bytes(8, "big") + smallest


def proposer_priority(
    public: bytes,
    message: bytes,
    proof: bytes,
    *,
    stake: int,
    total: int,
    expected: int = EXPECTED,
    policy: Policy = "min-hash",
) -> bytes | None:
    """Returns the priority that a proof gives its miner, or None where it may not propose.

    A miner never says how many units were chosen; whoever asks works it out from proof and stake.

    Args:
        public: the miner's VRF key, registered before the seed was known.
        message: what was to be proved, made by :func:`vrf_message`.
        proof: the miner's VRF proof.
        stake: the miner's units when the key was registered.
        total: all miners' units.
        expected: how many units are chosen on average.
        policy: what makes a proposer lead.

    Returns:
        Bytes of which the smallest leads; None when the proof is not this key's for this message, or chooses nobody.
    """
    output = ecvrf.verify(public, message, proof)
    units = 0 if output is None else chosen_units(output, stake, total, expected)
    return priority(policy, output, units) if output is not None and units else None


@lru_cache(maxsize=1 << 14)
def rank(public: bytes, message: bytes, proof: bytes, stake: int, total: int) -> bytes | None:
    """Returns a miner's place in the draw of who leads: the smallest leads; what was worked out once is remembered.

    With fewer than :data:`EXPECTED` units in all, every unit is chosen.

    Args:
        public: the miner's VRF key.
        message: ``vrf_message("propose", seed, height, period)``.
        proof: the miner's VRF proof.
        stake: the miner's units.
        total: all miners' units.

    Returns:
        The priority under ``min-hash``; ``b""`` where no unit was chosen, so that it may not propose; None where the
        proof is not this key's for this message.
    """
    output = ecvrf.verify(public, message, proof)
    if output is None:
        return None
    units = chosen_units(output, stake, total, min(EXPECTED, total))
    return priority("min-hash", output, units) if units else b""


def vrf_message(role: str, seed: bytes, *numbers: int) -> bytes:
    """Returns what a miner proves: a role, the seed, and numbers such as height and period.

    No two different calls give the same bytes, so that a proof for one role, height or period is none for another.

    Args:
        role: for example ``propose`` or ``seed``; ASCII, without a zero character.
        seed: the seed of the round.
        numbers: 0 to 2^64 - 1 each.
    """
    if not role.isascii() or "\0" in role:
        raise InputError(f"{role!r} is no role in a draw", allowed="ASCII without a zero character")
    head = b"privet " + role.encode("ascii") + b"\0" + len(seed).to_bytes(8, "big") + seed
    return head + b"".join(number.to_bytes(8, "big") for number in numbers)


def next_seed(previous: bytes, height: int, public: bytes, proof: bytes) -> bytes | None:
    """Returns the seed after a block: its leader's VRF output for (previous seed, height).

    Returns:
        64 bytes; None when the proof is not this leader's for ``vrf_message("seed", previous, height)``.
    """
    return ecvrf.verify(public, vrf_message("seed", previous, height), proof)


def empty_seed(previous: bytes, height: int) -> bytes:
    """Returns the seed after a block that nobody proposed: a hash of (previous seed, height), 64 bytes."""
    return hashlib.sha512(vrf_message("empty", previous, height)).digest()


def normalised(stakes: Sequence[int], units: int = 1000) -> list[int]:
    """Returns stakes scaled down to ``units`` in all, by largest remainder; a smaller total stays as it is.

    Each is less than one unit off its exact share. A miner with less than a unit may get none, and then never
    proposes. Equal remainders go to the first.

    Raises:
        InputError: a stake is negative, or all are 0.
    """
    total = sum(stakes)
    if total < 1 or min(stakes) < 0 or units < 1:
        raise InputError("stakes are whole numbers from 0, not all 0, and scale to one unit or more")
    if total <= units:
        return list(stakes)
    scaled, remainders = zip(*(divmod(stake * units, total) for stake in stakes), strict=True)
    left = units - sum(scaled)
    up = set(sorted(range(len(stakes)), key=lambda miner: (-remainders[miner], miner))[:left])
    return [each + (miner in up) for miner, each in enumerate(scaled)]


def count_leaders(
    stakes: Sequence[int], rounds: int, policy: Policy = "min-hash", *, expected: int = EXPECTED, seed: bytes = b""
) -> list[int]:
    """Returns how many of ``rounds`` rounds each miner leads, for trying a policy out.

    VRF outputs are stood in for by hashes of (seed, round, miner), which nobody can tell from them; a proof of each
    would take a quarter of a millisecond. Rounds in which nobody is chosen count for nobody.

    Args:
        stakes: units of each miner.
        rounds: how many rounds.
        policy: what makes a proposer lead.
        expected: how many units are chosen on average, 1 to the sum of the stakes.
        seed: another gives other rounds.
    """
    total, led = sum(stakes), [0] * len(stakes)
    for number in range(rounds):
        proposers = []
        for miner, stake in enumerate(stakes):
            output = hashlib.sha512(vrf_message("trial", seed, number, miner)).digest()
            if units := chosen_units(output, stake, total, expected):
                proposers.append((priority(policy, output, units), miner))
        if proposers:
            led[min(proposers)[1]] += 1
    return led
