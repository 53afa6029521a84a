"""A real IPFS node, Kubo as a library, in a process of its own: reads files by address and gives files addresses.

``python kubo_node.py LIBRARY REPO CONTENTS``: the folder CONTENTS holds ``files/``; ``blocks/``, each block in a file
named by its CID; and ``roots.json``, the addresses to read. Prints one JSON object: file -> the CIDv0 that the node
gives it, and address -> sha256 of what it reads there.
The node listens on loopback only and knows no other node.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import shutil
import sys
from pathlib import Path


def main(library: str, repo: str, contents: str) -> None:
    kubo = ctypes.CDLL(library)
    kubo.AddFile.restype = ctypes.c_void_p
    kubo.AddFile.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool]
    where, kept, there = repo.encode(), Path(contents), Path(repo)
    there.mkdir()
    assert kubo.CreateRepo(where) == 1
    rewrite(there / "config")
    assert kubo.RunNode(where) == 1
    for block in (kept / "blocks").iterdir():
        place(there, block)
    read, given = {}, {}
    for cid in json.loads((kept / "roots.json").read_text()):
        target = kept / "read"
        assert kubo.Download(where, cid.encode(), str(target).encode()) == 0
        read[cid] = hashlib.sha256(target.read_bytes()).hexdigest()
        target.unlink()
    for file in sorted((kept / "files").iterdir()):
        given[file.name] = ctypes.string_at(kubo.AddFile(where, str(file).encode(), False)).decode()
    kubo.CleanupNode(where)
    shutil.rmtree(there)
    print(json.dumps({"read": read, "given": given}))


def rewrite(path: Path) -> None:
    """Before the node starts: loopback only, nobody to ask, every block hashed when it is read."""
    config = json.loads(path.read_text())
    config["Bootstrap"] = []
    config["Addresses"] = {"Swarm": ["/ip4/127.0.0.1/tcp/0"], "API": [], "Gateway": []}
    config["Discovery"] = {"MDNS": {"Enabled": False}}
    config["Routing"] = {"Type": "none"}
    config["Swarm"] = {"DisableNatPortMap": True, "RelayClient": {"Enabled": False}, "RelayService": {"Enabled": False}}
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Datastore"]["HashOnRead"] = True
    path.write_text(json.dumps(config))


def place(repo: Path, block: Path) -> None:
    """Puts a block where the node's flat file store keeps it: under its multihash, in base32."""
    text = block.name[1:].upper()
    multihash = base64.b32decode(text + "=" * (-len(text) % 8))[2:]
    name = base64.b32encode(multihash).decode().rstrip("=")
    shelf = repo / "blocks" / name[-3:-1]
    shelf.mkdir(exist_ok=True)
    shutil.copyfile(block, shelf / f"{name}.data")


if __name__ == "__main__":
    main(*sys.argv[1:])
