"""The folder of one miner: everything that it is, so that it can be moved to another machine as a whole, and only once.

::

    signing.key  vrf.key  transport.key     secrets, mode 0600; made where the miner runs
    transport.pem  authority.pem            its certificate, and whom it trusts
    consortium.toml                         who the miners are and where
    ledger/                                 genesis, chain, contents
    sign-state                              what it has signed: never put an old copy back
    lock                                    held while a process runs it
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.errors import InputError, RunError
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.verification import find, genesis_bytes
from privet.transport.contract import Peer
from privet.transport.held_file import held
from privet.transport.identity import Identity
from privet.transport.key_files import read_secret

SIGNING_FILE, VRF_FILE = "signing.key", "vrf.key"
CONSORTIUM_FILE, SIGN_STATE_FILE, LOCK_FILE = "consortium.toml", "sign-state", "lock"
MINER = "miner"

_ADDRESS = re.compile(r"(?:\[[0-9a-f:]+\]|[a-z0-9.-]{1,253}):([0-9]{1,5})", re.IGNORECASE)


def check_address(address: str) -> str:
    """Returns an address ``host:port``, or "" for a miner that nobody can connect to.

    Raises:
        InputError: it is neither.
    """
    found = _ADDRESS.fullmatch(address)
    if address and (found is None or not 0 < int(found[1]) < 65536):
        raise InputError(f"{address[:80]!r} is no address", allowed="host:port, or [host]:port for IPv6")
    return address


@dataclass(frozen=True)
class Member:
    """One miner of a consortium.

    Attributes:
        peer: its role and name.
        key: its signing key.
        address: ``host:port``; "" where it only connects to others.
    """

    peer: Peer
    key: bytes
    address: str


@dataclass(frozen=True)
class Consortium:
    """Who the miners of a chain are and where; public, and the same for all.

    Attributes:
        genesis: hash of the chain's genesis.
        members: the miners.
    """

    genesis: bytes
    members: tuple[Member, ...]

    @classmethod
    def load(cls, folder: Path) -> Consortium:
        """Returns what ``consortium.toml`` in a folder says.

        Raises:
            InputError: it is missing, or something in it is wrong; the line names it.
        """
        path = folder / CONSORTIUM_FILE
        if not path.is_file():
            raise InputError(f"{path} is missing", do="take it from whoever founded the consortium")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            members = tuple(
                Member(Peer.of(f"{MINER}/{row['name']}"), bytes.fromhex(row["key"]), check_address(row["address"]))
                for row in table["miners"]
            )
            made = cls(bytes.fromhex(table["genesis"]), members)
        except InputError as error:
            raise InputError(f"{path}: {error.wrong}", allowed=error.allowed) from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is malformed: {error}", allowed="genesis, and miners with name, key, address"
            ) from None
        if len({each.peer for each in members}) < len(members):
            raise InputError(f"{path}: two miners share a name")
        return made

    def write(self, folder: Path) -> None:
        """Writes ``consortium.toml`` into a folder."""
        import tomli_w

        rows = [{"name": each.peer.name, "key": each.key.hex(), "address": each.address} for each in self.members]
        (folder / CONSORTIUM_FILE).write_text(tomli_w.dumps({"genesis": self.genesis.hex(), "miners": rows}))


@dataclass(frozen=True, repr=False)
class MinerFolder:
    """What :meth:`load` found in order.

    Attributes:
        path: the folder.
        genesis: of the chain.
        secret: seed of the signing key.
        vrf_secret: seed of the VRF key.
        identity: for the transport.
        consortium: all miners.
        own: this one.
    """

    path: Path
    genesis: Genesis
    secret: bytes
    vrf_secret: bytes
    identity: Identity
    consortium: Consortium
    own: Member

    @classmethod
    def load(cls, path: Path) -> MinerFolder:
        """Returns a miner's folder after checking that its parts belong together.

        Raises:
            InputError: a part is missing, malformed or of another miner or chain.
            RunError: there is no chain.
            RefusedError: others can read a key, or the certificate has expired.
        """
        consortium, identity = Consortium.load(path), Identity.load(path)
        genesis = Genesis.decode(genesis_bytes(find(path)))
        if genesis.hash != consortium.genesis:
            raise InputError(
                f"the genesis in {path} is not that of {CONSORTIUM_FILE}", do="take both from whoever founded the chain"
            )
        members = {each.key: each for each in consortium.members}
        if members.keys() != genesis.weights.keys():
            raise InputError(f"the miners of {path / CONSORTIUM_FILE} are not those of the genesis")
        secret, vrf_secret = seed(path / SIGNING_FILE), seed(path / VRF_FILE)
        own = members.get(public_key(secret))
        registered = {miner.key: miner for miner in genesis.miners}
        if own is None or registered[own.key].vrf != ecvrf.public_key(vrf_secret):
            raise InputError(f"the keys in {path} are not those of a miner of this chain")
        if own.peer != identity.peer:
            raise InputError(f"the certificate in {path} is of {identity.peer}, the keys are of {own.peer}")
        return cls(path, genesis, secret, vrf_secret, identity, consortium, own)

    @property
    def registered(self) -> Miner:
        """What the genesis says of this miner."""
        return next(miner for miner in self.genesis.miners if miner.key == self.own.key)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps every other process of this machine from running this miner.

        Raises:
            RunError: one does.
        """
        refusal = RunError(f"another process runs the miner in {self.path}", do="stop it first")
        with held(self.path / LOCK_FILE, refusal):
            yield


def seed(path: Path) -> bytes:
    """Returns a secret seed of 32 bytes.

    Raises:
        InputError: there is none, or it has another length.
        RefusedError: others can read it.
    """
    found = read_secret(path)
    if len(found) != 32:
        raise InputError(f"{path} is no key", allowed="32 bytes")
    return found
