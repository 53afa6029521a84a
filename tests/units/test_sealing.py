"""Sealed contents: HPKE against RFC 9180 by an obvious twin, every byte bound, one answer for every miner."""

from __future__ import annotations

import hmac
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.errors import ContentError, InputError, RunError
from privet.ledger import sealing
from privet.ledger.encoding import decode, encode
from privet.ledger.sealing import EpochKeys, Sealed, epoch_pair, seal

CONTEXT = encode(["chain", 1, 2, b"customer"])
MINERS = [bytes([number]) * 32 for number in (3, 1, 2)]
PAIRS = {miner: epoch_pair() for miner in MINERS}
RECIPIENTS = {miner: public for miner, (_, public) in PAIRS.items()}
SECRETS = {miner: secret for miner, (secret, _) in PAIRS.items()}
PLAIN = bytes(range(256)) * 3
DATA = seal(PLAIN, RECIPIENTS, CONTEXT)
SEALED = Sealed.decode(DATA)
KEY = SEALED.data_key(MINERS[0], SECRETS[MINERS[0]], CONTEXT)

GRECIAN_URN = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
TRUTH = b"Beauty is truth, truth beauty"
VECTORS = {  # RFC 9180: A.1.1.1 and A.2.1.1, sequence number 0; (aead id, key bytes, skEm, skRm, enc, ct)
    "A.1.1": (
        1,
        16,
        "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
        "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
    ),
    "A.2.1": (
        3,
        32,
        "f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600",
        "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
        "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
        "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    ),
}


class Twin:
    """HPKE in base mode, line by line from RFC 9180, sections 4 and 5."""

    def __init__(self, aead: int, key_bytes: int) -> None:
        self.aead, self.key_bytes = aead, key_bytes
        self.suite = b"HPKE" + (0x20).to_bytes(2, "big") + (1).to_bytes(2, "big") + aead.to_bytes(2, "big")

    @staticmethod
    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")

    @staticmethod
    def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
        return hmac.digest(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[
            :length
        ]

    def cipher(self, dh: bytes, enc: bytes, public: bytes, info: bytes) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
        kem = b"KEM" + (0x20).to_bytes(2, "big")
        shared = self.expand(kem, self.extract(kem, b"", b"eae_prk", dh), b"shared_secret", enc + public, 32)
        about = b"\0" + self.extract(self.suite, b"", b"psk_id_hash", b"")
        about += self.extract(self.suite, b"", b"info_hash", info)
        secret = self.extract(self.suite, shared, b"secret", b"")
        key = self.expand(self.suite, secret, b"key", about, self.key_bytes)
        nonce = self.expand(self.suite, secret, b"base_nonce", about, 12)
        return (AESGCM(key) if self.aead == 1 else ChaCha20Poly1305(key)), nonce

    def seal(self, ephemeral: bytes, public: bytes, info: bytes, aad: bytes, plain: bytes) -> bytes:
        secret = X25519PrivateKey.from_private_bytes(ephemeral)
        enc = secret.public_key().public_bytes_raw()
        dh = secret.exchange(X25519PublicKey.from_public_bytes(public))
        cipher, nonce = self.cipher(dh, enc, public, info)
        return enc + cipher.encrypt(nonce, plain, aad)

    def open(self, secret: bytes, info: bytes, aad: bytes, data: bytes) -> bytes:
        own = X25519PrivateKey.from_private_bytes(secret)
        dh = own.exchange(X25519PublicKey.from_public_bytes(data[:32]))
        cipher, nonce = self.cipher(dh, data[:32], own.public_key().public_bytes_raw(), info)
        return cipher.decrypt(nonce, data[32:], aad)


@pytest.mark.parametrize("name", VECTORS)
def test_the_twin_is_hpke_of_rfc_9180(name: str) -> None:
    aead, key_bytes, ephemeral, secret, enc, ciphertext = VECTORS[name]
    twin = Twin(aead, key_bytes)
    public = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret)).public_key().public_bytes_raw()
    assert twin.seal(bytes.fromhex(ephemeral), public, GRECIAN_URN, b"Count-0", TRUTH).hex() == enc + ciphertext
    assert twin.open(bytes.fromhex(secret), GRECIAN_URN, b"Count-0", bytes.fromhex(enc + ciphertext)) == TRUTH


def test_wraps_are_hpke_as_the_twin_has_it_both_ways() -> None:
    # The library's single-shot interface has no associated data, so the RFC's ciphertexts reach it through the twin.
    twin, miner = Twin(3, 32), MINERS[0]
    _, public, wrapped = SEALED._row(miner)
    info = encode(["privet/sealed/wrap/1", CONTEXT, SEALED.commitment, miner, public])
    assert twin.open(SECRETS[miner], info, b"", wrapped) == KEY
    made = _with_wrap(miner, twin.seal(bytes(range(32)), public, info, b"", KEY))
    assert made.data_key(miner, SECRETS[miner], CONTEXT) == KEY


@given(plain=some.binary(max_size=300), context=some.binary(max_size=40))
@settings(max_examples=25)
def test_every_miner_opens_what_was_sealed(plain: bytes, context: bytes) -> None:
    data = seal(plain, RECIPIENTS, context)
    sealed = Sealed.decode(data)
    assert sealed.encode() == data
    assert {sealed.open(miner, SECRETS[miner], context) for miner in MINERS} == {plain}
    assert [miner for miner, _, _ in sealed.wraps] == sorted(MINERS)
    assert all(sealed.epoch_key(miner) == RECIPIENTS[miner] for miner in MINERS)


def test_two_seals_of_the_same_bytes_have_nothing_in_common() -> None:
    other = Sealed.decode(seal(PLAIN, RECIPIENTS, CONTEXT))
    assert other.commitment != SEALED.commitment
    assert other.digest != SEALED.digest  # so that nobody confirms a guess of the plain bytes
    assert other.ciphertext != SEALED.ciphertext
    assert not other.fits(KEY)


@given(at=some.integers(0, len(DATA) - 1), bit=some.integers(0, 7))
@settings(max_examples=300)
def test_every_flipped_bit_is_detected_by_every_miner(at: int, bit: int) -> None:
    forged = bytearray(DATA)
    forged[at] ^= 1 << bit
    try:
        sealed = Sealed.decode(bytes(forged))
    except ContentError:
        return
    for miner in MINERS:
        with pytest.raises(ContentError):
            sealed.open(miner, SECRETS[miner], CONTEXT)
    with pytest.raises(ContentError):
        sealed.open_with(KEY, CONTEXT)


@given(cut=some.integers(0, len(DATA) - 1))
@settings(max_examples=40)
def test_what_was_cut_short_is_no_sealed_content(cut: int) -> None:
    with pytest.raises(ContentError):
        Sealed.decode(DATA[:cut])


def test_another_context_opens_nothing() -> None:
    other = encode(["chain", 1, 3, b"customer"])
    with pytest.raises(ContentError, match="holds no key of this content"):
        SEALED.open(MINERS[0], SECRETS[MINERS[0]], other)
    with pytest.raises(ContentError, match="of another chain, task, round or customer"):
        SEALED.open_with(KEY, other)


def test_a_miner_without_a_wrap_and_one_with_another_epoch_key_are_told_so() -> None:
    with pytest.raises(ContentError, match="no wrap for miner 0909"):
        SEALED.epoch_key(b"\x09" * 32)
    with pytest.raises(ContentError, match="another epoch key"):
        SEALED.data_key(MINERS[0], epoch_pair()[0], CONTEXT)
    with pytest.raises(ContentError, match="another epoch key"):
        SEALED.data_key(MINERS[0], SECRETS[MINERS[1]], CONTEXT)
    with pytest.raises(InputError, match="an epoch secret of 31 bytes"):
        SEALED.data_key(MINERS[0], bytes(31), CONTEXT)


def test_swapped_wraps_are_detected_and_leave_the_content_broken_for_all() -> None:
    rows = list(SEALED.wraps)
    first, second = rows[0], rows[1]
    rows[0], rows[1] = (*first[:2], second[2]), (*second[:2], first[2])
    swapped = replace(SEALED, wraps=tuple(rows))
    for miner, _, _ in rows[:2]:
        with pytest.raises(ContentError, match="holds no key"):
            swapped.data_key(miner, SECRETS[miner], CONTEXT)
    assert swapped.data_key(rows[2][0], SECRETS[rows[2][0]], CONTEXT) == KEY
    with pytest.raises(ContentError, match="broken"):
        swapped.open_with(KEY, CONTEXT)


def _with_wrap(miner: bytes, wrapped: bytes) -> Sealed:
    return replace(
        SEALED,
        wraps=tuple((*row[:2], wrapped) if row[0] == miner else row for row in SEALED.wraps),
        ciphertext=bytes(16),
    )


def _sealed_by_a_liar(wraps: dict[bytes, bytes], data_key: bytes = KEY) -> Sealed:
    """As :func:`seal`, but with these data keys inside the wraps."""
    rows = tuple(
        (m, p, sealing._wrap(wraps.get(m, data_key), p, sealing._info(CONTEXT, SEALED.commitment, m, p)))
        for m, p, _ in SEALED.wraps
    )
    head = replace(SEALED, wraps=rows)
    cipher = ChaCha20Poly1305(sealing._derived(data_key, sealing._CONTENT))
    return replace(head, ciphertext=cipher.encrypt(head.nonce, PLAIN, head.associated(CONTEXT)))


def test_a_miner_that_was_given_a_wrong_key_takes_it_from_another_and_all_agree() -> None:
    cheated, fine = MINERS[0], MINERS[1]
    sealed = _sealed_by_a_liar({cheated: b"\x55" * 32})
    with pytest.raises(ContentError, match="holds no key of this content; ask another miner"):
        sealed.open(cheated, SECRETS[cheated], CONTEXT)
    asked = sealed.data_key(fine, SECRETS[fine], CONTEXT)
    assert sealed.fits(asked)
    assert sealed.open_with(asked, CONTEXT) == PLAIN == sealed.open(fine, SECRETS[fine], CONTEXT)
    with pytest.raises(ContentError, match="not the data key"):
        sealed.open_with(b"\x55" * 32, CONTEXT)  # a liar among the miners


def test_a_wrap_may_not_hold_a_key_of_another_length() -> None:
    short = MINERS[0]
    public = RECIPIENTS[short]
    info = sealing._info(CONTEXT, SEALED.commitment, short, public)
    assert len(sealing._wrap(KEY[:31], public, info)) == sealing.WRAP_BYTES - 1
    assert not SEALED.fits(KEY[:31])
    assert not SEALED.fits(KEY + b"\0")


def test_a_digest_of_other_bytes_is_broken_for_everybody() -> None:
    head = replace(SEALED, digest=bytes(32))
    cipher = ChaCha20Poly1305(sealing._derived(KEY, sealing._CONTENT))
    sealed = replace(head, ciphertext=cipher.encrypt(head.nonce, PLAIN, head.associated(CONTEXT)))
    for miner in MINERS:
        with pytest.raises(ContentError, match="others than it commits to"):
            sealed.open(miner, SECRETS[miner], CONTEXT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wraps", []),
        ("wraps", [[MINERS[0], bytes(32), bytes(80)]] * 2),
        ("wraps", [[MINERS[0], bytes(32), bytes(79)]]),
        ("commitment", bytes(31)),
        ("digest", None),
        ("nonce", bytes(11)),
        ("ciphertext", bytes(15)),
        ("more", 1),
    ],
)
def test_malformed_contents_are_refused(field: str, value: object) -> None:
    table = decode(DATA)
    assert isinstance(table, dict)
    with pytest.raises(ContentError):
        Sealed.decode(encode({**table, field: value}))  # type: ignore[dict-item]


def test_oversize_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="11 bytes are too many"):
        seal(bytes(11), RECIPIENTS, CONTEXT)
    monkeypatch.setattr(sealing, "_LONGEST", len(DATA) - 1)
    with pytest.raises(ContentError, match="oversize"):
        Sealed.decode(DATA)


def test_too_many_miners_and_nobody_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="0 miners"):
        seal(PLAIN, {}, CONTEXT)
    monkeypatch.setattr(sealing, "MAX_MINERS", 2)
    with pytest.raises(InputError, match="3 miners"):
        seal(PLAIN, RECIPIENTS, CONTEXT)
    with pytest.raises(ContentError, match="3 miners"):
        Sealed.decode(DATA)


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), bytes(31)])
def test_an_epoch_key_that_nothing_can_be_wrapped_for_is_refused(public: bytes) -> None:
    assert not sealing.usable(public)
    with pytest.raises(InputError, match="miner 0303030303030303 has no usable epoch key"):
        seal(PLAIN, {**RECIPIENTS, MINERS[0]: public}, CONTEXT)
    assert sealing.usable(RECIPIENTS[MINERS[0]])


def test_a_miner_is_named_by_32_bytes() -> None:
    with pytest.raises(InputError):
        seal(PLAIN, {b"short": RECIPIENTS[MINERS[0]]}, CONTEXT)


def test_epoch_keys_in_memory_open_until_the_epoch_is_over() -> None:
    keys = EpochKeys()
    first, second = keys.begin(1), keys.begin(2)
    assert first == keys.begin(1) != second
    sealed = Sealed.decode(seal(PLAIN, {MINERS[0]: first}, CONTEXT))
    assert sealed.open(MINERS[0], keys.secret(sealed.epoch_key(MINERS[0])), CONTEXT) == PLAIN
    held = keys._secrets[1]
    keys.end(1)
    assert held == bytes(32)
    assert keys.epochs == [2]
    with pytest.raises(InputError, match="no secret for epoch key"):
        keys.secret(first)
    with pytest.raises(InputError, match="epoch -1"):
        keys.begin(-1)


def test_epoch_keys_outlive_a_restart_and_not_their_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys = EpochKeys(folder)
    public = [keys.begin(epoch) for epoch in (4, 5)]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "epoch-4.key": 0o600,
        "epoch-5.key": 0o600,
    }
    again = EpochKeys(folder)
    assert again.epochs == [4, 5]
    assert [again.begin(epoch) for epoch in (4, 5)] == public
    with (folder / "epoch-4.key").open("rb") as old:  # the same blocks, after the name is gone
        again.end(4)
        assert old.read() == bytes(32)
    assert [path.name for path in folder.iterdir()] == ["epoch-5.key"]
    assert EpochKeys(folder).epochs == [5]


def test_a_crash_while_a_key_is_made_or_erased_leaves_no_key(tmp_path: Path) -> None:
    (tmp_path / "epoch-7.key.part").write_bytes(b"half a key")
    (tmp_path / "epoch-6.key").write_bytes(bytes(32))
    keys = EpochKeys(tmp_path)
    assert keys.epochs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["epoch-1.key", "epoch-x.key", "epoch-01.key"])
def test_damaged_and_open_key_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x07" * (31 if name == "epoch-1.key" else 32))
    path.chmod(0o600)
    with pytest.raises(RunError, match="holds no epoch secret"):
        EpochKeys(tmp_path)


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    EpochKeys(tmp_path).begin(1)
    (tmp_path / "epoch-1.key").chmod(0o640)
    with pytest.raises(RunError, match="others may read"):
        EpochKeys(tmp_path)
