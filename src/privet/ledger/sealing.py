"""Sealed updates: a customer's bytes that only the miners of this epoch can open, and all of them alike.

A random data key encrypts the bytes; HPKE wraps the key for each miner's epoch key. The content commits to the key,
so a key that fits opens it to one answer for everybody: the same bytes, or "broken". A miner whose own wrap is wrong
takes the key from another miner and needs to trust nobody for it. Every byte is authenticated, and bound to the
``context``: canonical bytes that say which chain, task, round and customer the content is of.

What it does not do: the miners see each single update. Who wraps correctly for hostile miners only makes a content
that exists when they say so; the rule that a vote needs every byte in hand covers that. Which wrap was wrong can't be
shown to others without a miner's secret, so nobody is punished for it. Nobody has audited this code.

Cost: two X25519 products a miner and one pass of ChaCha20-Poly1305; 151 bytes a miner and about 150 more in all.

References:
    RFC 9180 (HPKE, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305; single shot, section 6.1);
    RFC 8439 (ChaCha20-Poly1305); Albertini and others, USENIX Security 2022, for why an AEAD needs a commitment.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privet.errors import ContentError, InputError
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.epoch_keys import EpochKeys as EpochKeys
from privet.ledger.epoch_keys import epoch_pair as epoch_pair
from privet.ledger.epoch_keys import public_of, usable
from privet.ledger.fields import Field, binary, digest, key, read, rows

MAX_BYTES = 1 << 28
"""Longest content that can be sealed, in plain bytes."""

MAX_MINERS = 1 << 10
"""Most miners that a content is wrapped for."""

WRAP_BYTES = 80
"""A wrapped data key: ephemeral public key, encrypted key, tag."""

_TAG = 16
_LONGEST = MAX_BYTES + _TAG + MAX_MINERS * 151 + 256
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)

_FIELDS: dict[str, Field] = {
    "commitment": digest,
    "digest": digest,
    "wraps": rows(key, key, binary(WRAP_BYTES)),
    "nonce": binary(12),
    "ciphertext": binary(_TAG, MAX_BYTES + _TAG),
}


def seal(plain: bytes, recipients: Mapping[bytes, bytes], context: bytes) -> bytes:
    """Returns canonical bytes that each recipient can open, and that differ every time.

    Args:
        plain: up to :data:`MAX_BYTES`.
        recipients: each miner's Ed25519 public key -> its registered epoch public key.
        context: canonical bytes of chain, task, round and customer; needed to open.

    Raises:
        InputError: there is nobody to seal for, a key can't be used, or there are too many bytes or miners.
    """
    if len(plain) > MAX_BYTES:
        raise InputError(f"{len(plain)} bytes are too many to seal", allowed=f"up to {MAX_BYTES}")
    if not 0 < len(recipients) <= MAX_MINERS:
        raise InputError(f"{len(recipients)} miners to seal for", allowed=f"1 to {MAX_MINERS}")
    for miner, public in recipients.items():
        if len(miner) != 32 or not usable(public):
            raise InputError(f"miner {miner.hex()[:16]} has no usable epoch key", do="have it register another")
    data_key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    commitment = _derived(data_key, _COMMITMENT)
    wraps: list[tuple[bytes, bytes, bytes]] = [
        (miner, public, _wrap(data_key, public, _info(context, commitment, miner, public)))
        for miner, public in sorted(recipients.items())
    ]
    head = Sealed(commitment, _digest(data_key, plain), tuple(wraps), nonce, b"")
    cipher = ChaCha20Poly1305(_derived(data_key, _CONTENT))
    ciphertext = cipher.encrypt(nonce, plain, head.associated(context))
    return Sealed(commitment, head.digest, head.wraps, nonce, ciphertext).encode()


@dataclass(frozen=True)
class Sealed:
    """A sealed content.

    Attributes:
        commitment: to the data key; no second key has it.
        digest: of the plain bytes under the data key: commits to them and tells nobody else what they are, so that
            a guess can't be confirmed without the key.
        wraps: (miner, epoch public key, wrapped data key), by rising miner.
        nonce: of the encryption.
        ciphertext: with its tag.
    """

    commitment: bytes
    digest: bytes
    wraps: tuple[tuple[bytes, bytes, bytes], ...]
    nonce: bytes
    ciphertext: bytes

    @classmethod
    def decode(cls, data: bytes) -> Sealed:
        """Returns the sealed content whose one encoding ``data`` is. Every miner finds the same.

        Raises:
            ContentError: oversize, not canonical, a field is wrong, or it is for nobody or for too many miners.
        """
        if len(data) > _LONGEST:
            raise ContentError(f"a sealed content of {len(data)} bytes is oversize", allowed=f"up to {_LONGEST}")
        try:
            table = read("a sealed content", decode(data), _FIELDS)
        except InputError as error:
            raise ContentError(error.wrong, allowed=error.allowed) from None
        if not 0 < len(table["wraps"]) <= MAX_MINERS:
            raise ContentError(f"content sealed for {len(table['wraps'])} miners", allowed=f"1 to {MAX_MINERS}")
        return cls(**{**table, "wraps": tuple(tuple(row) for row in table["wraps"])})

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        return encode({**self._head(), "ciphertext": self.ciphertext})

    def epoch_key(self, miner: bytes) -> bytes:
        """Returns the epoch public key that the wrap for a miner is for.

        Raises:
            ContentError: there is no wrap for this miner.
        """
        return self._row(miner)[1]

    def data_key(self, miner: bytes, epoch_secret: bytes, context: bytes) -> bytes:
        """Returns the data key from a miner's own wrap.

        Args:
            miner: its Ed25519 public key.
            epoch_secret: belongs to :meth:`epoch_key`.
            context: as given to :func:`seal`.

        Raises:
            ContentError: there is no wrap for this miner, or it is wrong; another miner may have the key.
        """
        _, public, wrapped = self._row(miner)
        if public_of(epoch_secret) != public:
            raise ContentError("the wrap is for another epoch key of this miner", do="use the key of its epoch")
        try:
            secret = X25519PrivateKey.from_private_bytes(epoch_secret)
            data_key = _SUITE.decrypt(wrapped, secret, _info(context, self.commitment, miner, public))
        except InvalidTag:
            data_key = b""
        if not self.fits(data_key):
            raise ContentError(
                f"the wrap for miner {miner.hex()[:16]} holds no key of this content",
                do="ask another miner for the data key",
            )
        return data_key

    def fits(self, data_key: bytes) -> bool:
        """Returns whether this is the data key that the content commits to, whoever it comes from."""
        return len(data_key) == 32 and hmac.compare_digest(_derived(data_key, _COMMITMENT), self.commitment)

    def open_with(self, data_key: bytes, context: bytes) -> bytes:
        """Returns the plain bytes. With a key that :meth:`fits`, every miner gets these bytes or the same error.

        Raises:
            ContentError: the key is of another content; or it fits and the content is broken, for everybody.
        """
        if not self.fits(data_key):
            raise ContentError("that is not the data key of this content", do="ask another miner")
        try:
            cipher = ChaCha20Poly1305(_derived(data_key, _CONTENT))
            plain = cipher.decrypt(self.nonce, self.ciphertext, self.associated(context))
        except InvalidTag:
            raise ContentError("the sealed content is broken, or of another chain, task, round or customer") from None
        if not hmac.compare_digest(_digest(data_key, plain), self.digest):
            raise ContentError("the sealed content is broken: its plain bytes are others than it commits to")
        return plain

    def open(self, miner: bytes, epoch_secret: bytes, context: bytes) -> bytes:
        """Returns the plain bytes, by a miner's own wrap: :meth:`data_key`, then :meth:`open_with`.

        Raises:
            ContentError: as these two.
        """
        return self.open_with(self.data_key(miner, epoch_secret, context), context)

    def associated(self, context: bytes) -> bytes:
        """Returns what the ciphertext is bound to: the context and every other field, each wrap included."""
        return encode(["privet/sealed/1", context, self._head()])

    def _head(self) -> dict[str, Value]:
        wraps: list[Value] = [list(row) for row in self.wraps]
        return {"commitment": self.commitment, "digest": self.digest, "wraps": wraps, "nonce": self.nonce}

    def _row(self, miner: bytes) -> tuple[bytes, bytes, bytes]:
        for row in self.wraps:
            if row[0] == miner:
                return row
        raise ContentError(f"no wrap for miner {miner.hex()[:16]}", do="ask another miner for the data key")


_COMMITMENT, _CONTENT, _DIGEST = b"privet/sealed/commitment/1", b"privet/sealed/content/1", b"privet/sealed/digest/1"


def _derived(data_key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(data_key, purpose, "sha256")


def _digest(data_key: bytes, plain: bytes) -> bytes:
    return hmac.digest(_derived(data_key, _DIGEST), hashlib.sha256(plain).digest(), "sha256")


def _info(context: bytes, commitment: bytes, miner: bytes, public: bytes) -> bytes:
    return encode(["privet/sealed/wrap/1", context, commitment, miner, public])


def _wrap(data_key: bytes, public: bytes, info: bytes) -> bytes:
    return _SUITE.encrypt(data_key, X25519PublicKey.from_public_bytes(public), info)
