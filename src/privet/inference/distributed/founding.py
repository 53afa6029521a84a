"""Who is who among a source and its helpers: an authority, addresses, and a folder with certificate for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privet.errors import InputError
from privet.inference.distributed.multiplier import HELPER, PREPARER, SOURCE
from privet.transport.certificates import Authority
from privet.transport.contract import Peer
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE
from privet.transport.key_files import write_secret

ADDRESSES = "helpers.json"
AUTHORITY, AUTHORITY_FILE = "authority", "authority.pem"


def found(folder: Path, places: Mapping[Peer, str], days: int = 30) -> None:
    """Makes an authority and a folder for the source and each helper, with a certificate that lasts so many days.

    ``source/helpers.json`` says who is where. Keys are made here and travel in these folders: the authority's stays.

    Args:
        folder: new, or empty.
        places: ``host:port`` of each helper and preparer.
        days: how long certificates last.

    Raises:
        InputError: the folder holds something, or an address is malformed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", do="take another folder")
    hosts = {}
    for peer, address in places.items():
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or peer.role not in (HELPER, PREPARER):
            raise InputError(f"{peer} at {address!r}", allowed="helper/NAME or preparer/NAME at host:port")
        hosts[peer] = [host.strip("[]")]
    authority = Authority.create("privet helpers")
    authority.save(folder / AUTHORITY)
    for peer in (Peer(SOURCE, "source"), *places):
        own = folder / peer.name
        own.mkdir(mode=0o700, parents=True)
        key, certificate = authority.issue(str(peer), hosts.get(peer, []), days)
        write_secret(own / KEY_FILE, key)
        (own / CERTIFICATE_FILE).write_bytes(certificate)
        (own / AUTHORITY_FILE).write_bytes(authority.certificate)
    known = {str(peer): address for peer, address in places.items()}
    (folder / "source" / ADDRESSES).write_text(json.dumps(known, indent=2) + "\n")


def addresses(folder: Path) -> dict[Peer, str]:
    """Returns who is where, as a source's folder has it.

    Raises:
        InputError: the file is missing or malformed.
    """
    path = folder / ADDRESSES
    if not path.is_file():
        raise InputError(f"{path} is missing", do="say who helps: {'helper/a': 'host:port'}")
    try:
        known: Any = json.loads(path.read_text())
        return {Peer.of(str(name)): str(address) for name, address in known.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is malformed: {error}", allowed="{'helper/a': 'host:port'}") from None
