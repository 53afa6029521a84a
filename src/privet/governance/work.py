"""Signed work: a device runs what its fleet's coordinator signed, and nothing that somebody on the way made up."""

from __future__ import annotations

from privet.crypto.signatures import PUBLIC_BYTES, sign, verify
from privet.errors import RefusedError

_PURPOSE = "privet work"


def sign_work(secret: bytes, work: bytes) -> bytes:
    """Returns the 64-byte signature of work.

    Args:
        secret: the fleet's Ed25519 key for work, :attr:`privet.governance.enrolment.Fleet.work_secret`.
        work: canonical bytes; they name the run, the round and the digest of the tensors that come with it.
    """
    return sign(secret, _PURPOSE, work)


def check_work(public: bytes, work: bytes, signature: bytes) -> None:
    """Refuses work that the holder of a key did not sign.

    Args:
        public: the coordinator's Ed25519 key for work, which a device learns when it joins.
        work: the bytes that were signed.
        signature: 64 bytes; empty if there was none.

    Raises:
        RefusedError: there is no signature, or it is another's, or of other bytes.
    """
    if not signature:
        raise RefusedError("the work is not signed")
    if len(public) != PUBLIC_BYTES or not verify(public, _PURPOSE, work, signature):
        raise RefusedError("the work is not signed by the coordinator of this device's fleet")
