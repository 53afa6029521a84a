"""How a consortium begins: every miner makes its keys where it runs, and registers; then the chain is founded.

A registration is public. It names the miner, its keys and its address, holds a signing request for its certificate,
and is signed by both keys, so that nobody registers a key that is somebody else's or that it chose to match another's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key, sign, verify
from privet.errors import InputError, RefusedError
from privet.ledger.chain import Chain
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import binary, key, read, signature, text
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.miner_folder import CONSORTIUM_FILE, MINER, SIGNING_FILE, VRF_FILE, Consortium, Member, check_address
from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
from privet.transport.certificates import Authority, host_of, new_key, request
from privet.transport.contract import Peer
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE
from privet.transport.key_files import write_secret

REGISTRATION_FILE = "registration.cbor"
AUTHORITY_FOLDER, MANUFACTURER_FOLDER = "authority", "manufacturer"
TOKENS = 1 << 40
"""What the manufacturer of a new chain holds unless said otherwise."""

_PURPOSE = "privet/registration/1"
_MOST = 1 << 16


@dataclass(frozen=True)
class Registration:
    """What a miner tells whoever founds the chain.

    Attributes:
        name: of the miner, small letters, digits and hyphens.
        key: its signing key.
        vrf: its VRF key.
        address: ``host:port``, or "" where it only connects to others.
        request: signing request for its certificate, PEM.
        proof: VRF proof over all of the above.
        signature: by the signing key over all of the above.
    """

    name: str
    key: bytes
    vrf: bytes
    address: str
    request: bytes
    proof: bytes = b""
    signature: bytes = b""

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        return encode(dict(vars(self)))

    @classmethod
    def decode(cls, data: bytes) -> Registration:
        """Returns the registration that ``data`` is the one encoding of, after checking both proofs.

        Raises:
            InputError: it is too long or malformed.
            RefusedError: a proof is wrong.
        """
        if len(data) > _MOST:
            raise InputError("this is no registration", allowed=f"up to {_MOST} bytes")
        fields: dict[str, Any] = {
            "name": text(40),
            "key": key,
            "vrf": key,
            "address": lambda value: isinstance(value, str),
            "request": binary(1, _MOST),
            "proof": binary(80),
            "signature": signature,
        }
        made = cls(**read("registration", decode(data), fields))
        host_of(f"{MINER}/{made.name}")
        check_address(made.address)
        said = made._said()
        if ecvrf.verify(made.vrf, said, made.proof) is None or not verify(
            made.key, _PURPOSE, said + made.proof, made.signature
        ):
            raise RefusedError(f"the registration of {made.name} is not signed by its own keys")
        return made

    def _said(self) -> bytes:
        table: list[Value] = [_PURPOSE, self.name, self.key, self.vrf, self.address, self.request]
        return encode(table)


def register(folder: Path, name: str, address: str = "") -> Registration:
    """Makes a miner's keys in a folder, and returns what to hand to whoever founds the chain.

    Args:
        folder: made when absent; gets ``signing.key``, ``vrf.key``, ``transport.key`` and ``registration.cbor``.
        name: small letters, digits and hyphens.
        address: ``host:port`` under which others reach it, or "".

    Raises:
        InputError: the name or the address is malformed, or there are keys already; nothing was written.
    """
    host = check_address(address).rpartition(":")[0].strip("[]")
    transport = new_key()
    csr = request(transport, f"{MINER}/{name}", [host] if host else [])
    taken = [file for file in (SIGNING_FILE, VRF_FILE, KEY_FILE) if (folder / file).exists()]
    if taken:
        raise InputError(f"{folder / taken[0]} is there already", do="take another folder; a key is never written over")
    secret, vrf_secret = os.urandom(32), os.urandom(32)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file, made in ((SIGNING_FILE, secret), (VRF_FILE, vrf_secret), (KEY_FILE, transport)):
        write_secret(folder / file, made)
    bare = Registration(name, public_key(secret), ecvrf.public_key(vrf_secret), address, csr)
    proof = ecvrf.prove(vrf_secret, bare._said())
    signed = sign(secret, _PURPOSE, bare._said() + proof)
    registration = Registration(**{**vars(bare), "proof": proof, "signature": signed})
    (folder / REGISTRATION_FILE).write_bytes(registration.encode())
    return registration


def found(
    folder: Path, registrations: Sequence[Registration], name: str, *, tokens: int = TOKENS, f: int = 1, days: int = 30
) -> Genesis:
    """Founds a chain: the authority, a manufacturer, and for each miner what it must add to its folder.

    Args:
        folder: gets ``authority/``, ``manufacturer/`` and one folder for each miner, by its name. Where the miner's
            keys are there already, its folder is complete; elsewhere its owner copies it over the one with the keys.
        registrations: of all miners; they never change afterwards.
        name: of the chain.
        tokens: what the manufacturer holds in the beginning.
        f: hostile updates that Multi-Krum withstands.
        days: how long the miners' certificates last.

    Returns:
        The genesis. Compare its hash over another line before the miners start.

    Raises:
        InputError: two registrations share a name or key, no miner can be connected to, or there is a chain already;
            nothing was written.
        RefusedError: a certificate request is for something else than its registration.
    """
    names = [each.name for each in registrations]
    if len(set(names)) < len(names) or {AUTHORITY_FOLDER, MANUFACTURER_FOLDER} & set(names):
        raise InputError("two participants share a name", allowed="each miner its own, none called as a folder of ours")
    if len(registrations) > 1 and not any(each.address for each in registrations):
        raise InputError("no miner has an address", allowed="one or more that the others can connect to")
    begun = [each for each in (AUTHORITY_FOLDER, *names) if (folder / each / CONSORTIUM_FILE).exists()]
    if begun or (folder / AUTHORITY_FOLDER).exists():
        raise InputError(f"{folder} holds a consortium already", do="take another folder")
    authority, maker = Authority.create(name), os.urandom(32)
    miners = tuple(Miner(each.key, each.vrf) for each in registrations)
    genesis = Genesis(name, miners, {public_key(maker): tokens}, f=f)
    members = tuple(Member(Peer(MINER, each.name), each.key, each.address) for each in registrations)
    certificates = [_certificate(authority, each, days) for each in registrations]
    authority.save(folder / AUTHORITY_FOLDER)
    consortium = Consortium(genesis.hash, members)
    for one, certificate in zip(registrations, certificates, strict=True):
        _package(folder / one.name, authority, consortium, certificate)
        Chain.create(folder / one.name, genesis).close()
    own_key, certificate = authority.issue(f"{MANUFACTURER_FOLDER}/{MANUFACTURER_FOLDER}", days=days)
    place = folder / MANUFACTURER_FOLDER
    _package(place, authority, consortium, certificate)
    write_secret(place / KEY_FILE, own_key)
    write_secret(place / SIGNING_FILE, maker)
    return genesis


def renew(folder: Path, one: Registration, days: int = 30) -> Path:
    """Writes a new certificate for a miner of a consortium; its owner copies it into the miner's folder.

    Args:
        folder: of the consortium, with ``authority/``.
        one: the miner's registration, as when the chain was founded.
        days: how long the certificate lasts.

    Returns:
        The file.

    Raises:
        InputError: there is no consortium in the folder.
        RefusedError: the registration is not of a miner of this consortium.
    """
    authority, place = Authority.load(folder / AUTHORITY_FOLDER), folder / one.name
    known = {(each.peer.name, each.key, each.address) for each in Consortium.load(folder / MANUFACTURER_FOLDER).members}
    if (one.name, one.key, one.address) not in known:
        raise RefusedError(f"{one.name} is not registered so in this consortium", allowed="its first registration")
    place.mkdir(mode=0o700, exist_ok=True)
    (place / CERTIFICATE_FILE).write_bytes(_certificate(authority, one, days))
    return place / CERTIFICATE_FILE


def _certificate(authority: Authority, one: Registration, days: int) -> bytes:
    host = one.address.rpartition(":")[0].strip("[]")
    return authority.sign(one.request, name=f"{MINER}/{one.name}", hosts=[host] if host else [], days=days)


def _package(place: Path, authority: Authority, consortium: Consortium, certificate: bytes) -> None:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    (place / AUTHORITY_FILE).write_bytes(authority.certificate)
    (place / CERTIFICATE_FILE).write_bytes(certificate)
    consortium.write(place)
