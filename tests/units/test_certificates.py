"""The certificate authority: what it signs verifies, and it signs nothing else."""

import datetime
import ipaddress
import os
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification

from privet.errors import InputError, RefusedError
from privet.transport.certificates import (
    Authority,
    expires,
    fingerprint,
    host_of,
    issued_by,
    name_in,
    new_key,
    request,
)
from privet.transport.key_files import read_secret, write_secret

AUTHORITY = Authority.create("tests")


def load(pem):
    return x509.load_pem_x509_certificate(pem)


def builder(authority=AUTHORITY):
    store = verification.Store([load(authority.certificate)])
    return verification.PolicyBuilder().store(store)


def own(name, sans, key=None, signer=None):
    """A signing request made by hand, as a hostile holder would."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if sans is not None:
        made = made.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return made.sign(signer or key, algorithm).public_bytes(serialization.Encoding.PEM)


def sans(name, *more):
    return [x509.UniformResourceIdentifier(f"privet:{name}"), x509.DNSName(host_of(name)), *more]


def test_a_member_is_a_server_under_its_name_and_hosts_and_a_client():
    key, certificate = AUTHORITY.issue("miner/a", ["127.0.0.1", "::1", "a.example"])
    for subject in (
        x509.DNSName("a.miner.privet.internal"),
        x509.DNSName("a.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ):
        chain = builder().build_server_verifier(subject).verify(load(certificate), [])
        assert len(chain) == 2
    with pytest.raises(verification.VerificationError):
        builder().build_server_verifier(x509.DNSName("b.miner.privet.internal")).verify(load(certificate), [])
    client = builder().build_client_verifier().verify(load(certificate), [])
    assert client.subjects[0].value == "privet:miner/a"
    assert name_in(certificate) == "miner/a"
    public = serialization.load_pem_private_key(key, None).public_key()
    assert load(certificate).public_key() == public


def test_without_hosts_it_is_a_client_only():
    _, certificate = AUTHORITY.issue("miner/behind-nat")
    assert builder().build_client_verifier().verify(load(certificate), []).subjects
    with pytest.raises(verification.VerificationError):
        builder().build_server_verifier(x509.DNSName(host_of("miner/behind-nat"))).verify(load(certificate), [])


def test_another_authority_or_a_later_day_does_not_verify():
    _, certificate = AUTHORITY.issue("miner/a", days=2)
    with pytest.raises(verification.VerificationError):
        builder(Authority.create("tests")).build_client_verifier().verify(load(certificate), [])
    late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    with pytest.raises(verification.VerificationError):
        builder().time(late).build_client_verifier().verify(load(certificate), [])


def test_a_member_can_not_sign_others():
    key, certificate = AUTHORITY.issue("miner/a", ["127.0.0.1"])
    _, forged = Authority(key, certificate).issue("miner/b")
    with pytest.raises(verification.VerificationError):
        builder().build_client_verifier().verify(load(forged), [load(certificate)])


def test_a_certificate_never_outlasts_its_authority():
    short = Authority.create("short", days=1)
    _, certificate = short.issue("miner/a", days=300)
    assert expires(certificate) == expires(short.certificate)
    _, month = AUTHORITY.issue("miner/a")
    left = expires(month) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)


def test_an_expired_certificate_can_be_made_for_tests():
    _, certificate = AUTHORITY.issue("miner/a", days=-1)
    assert expires(certificate) < datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize(
    "csr",
    [
        lambda: request(new_key(), "miner/b"),
        lambda: request(new_key(), "server/a"),
        lambda: request(new_key(), "miner/a", ["10.0.0.9"]),
        lambda: own("miner/a", sans("miner/a", x509.DNSName("b.miner.privet.internal"))),
        lambda: own("miner/a", sans("miner/a", x509.UniformResourceIdentifier("privet:server/a"))),
        lambda: own("miner/a", [x509.UniformResourceIdentifier("privet:miner/a")]),
        lambda: own("miner/b", sans("miner/a")),
        lambda: own("miner/a", None),
    ],
)
def test_a_request_for_another_name_or_host_is_refused(csr):
    with pytest.raises(RefusedError):
        AUTHORITY.sign(csr(), name="miner/a", hosts=["127.0.0.1"])


def test_fewer_hosts_than_allowed_may_be_asked_for():
    certificate = AUTHORITY.sign(request(new_key(), "miner/a"), name="miner/a", hosts=["127.0.0.1"])
    names = load(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.IPAddress)


def test_a_request_that_its_own_key_did_not_sign_is_refused():
    csr = request(new_key(), "miner/a")
    der = bytearray(x509.load_pem_x509_csr(csr).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(RefusedError, match="own key"):
        AUTHORITY.sign(forged, name="miner/a")


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256K1()),
    ],
)
def test_a_key_of_another_kind_is_refused(key):
    with pytest.raises(InputError, match="P-256"):
        AUTHORITY.sign(own("miner/a", sans("miner/a"), key), name="miner/a")


def test_p384_is_taken():
    csr = own("miner/a", sans("miner/a"), ec.generate_private_key(ec.SECP384R1()))
    assert name_in(AUTHORITY.sign(csr, name="miner/a")) == "miner/a"


@pytest.mark.parametrize(
    "name", ["a", "Miner/a", "miner/a/b", "miner/", "miner/-a", "miner/a.b", "miner/" + "a" * 41, "miner/a\n"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError):
        request(new_key(), name)


@pytest.mark.parametrize("host", ["", "a b", "a..b", "b.miner.privet.internal", "*.example", "a" * 254])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(InputError):
        request(new_key(), "miner/a", [host])


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_junk_is_refused(data):
    for refuse in (
        lambda: fingerprint(data),
        lambda: name_in(data),
        lambda: AUTHORITY.sign(data, name="miner/a"),
        lambda: request(data, "miner/a"),
    ):
        with pytest.raises(InputError):
            refuse()


def test_the_authority_itself_names_no_member():
    with pytest.raises(InputError, match="nobody"):
        name_in(AUTHORITY.certificate)
    assert len(fingerprint(AUTHORITY.certificate)) == 64


def test_a_certificate_of_elsewhere_with_another_uri_names_nobody():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().issuer_name(name).subject_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("privet:")]), critical=False)
    with pytest.raises(InputError, match="nobody"):
        name_in(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def test_it_is_kept_in_a_folder_whose_key_nobody_else_reads(tmp_path):
    AUTHORITY.save(tmp_path / "authority")
    key = tmp_path / "authority" / "authority.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Authority.load(key.parent) == AUTHORITY
    assert "PRIVATE" not in repr(AUTHORITY)
    with pytest.raises(InputError, match="already"):
        Authority.create("other").save(key.parent)
    key.chmod(0o640)
    with pytest.raises(RefusedError, match="chmod 600"):
        Authority.load(key.parent)


def test_a_folder_with_parts_missing_or_mixed_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing"):
        Authority.load(tmp_path)
    AUTHORITY.save(tmp_path)
    (tmp_path / "authority.pem").write_bytes(Authority.create("other").certificate)
    with pytest.raises(InputError, match="not the certificate"):
        Authority.load(tmp_path)
    (tmp_path / "authority.pem").unlink()
    with pytest.raises(InputError, match="missing"):
        Authority.load(tmp_path)


def test_an_authority_without_name_or_days_is_refused():
    for name, days in (("", 1), ("a" * 65, 1), ("a", 0)):
        with pytest.raises(InputError):
            Authority.create(name, days)


def test_who_signed_a_certificate():
    _, certificate = AUTHORITY.issue("device/a")
    other = Authority.create("other").certificate
    assert issued_by(certificate, other + AUTHORITY.certificate)
    assert not issued_by(certificate, other)
    for damaged in ((b"none", other), (certificate, b"none")):
        with pytest.raises(InputError, match="no certificate"):
            issued_by(*damaged)


def test_a_secret_behind_a_link_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"key is missing; bring the file back$"):  # in a state folder, no new one
        read_secret(tmp_path / "key")
    write_secret(tmp_path / "key", b"secret")
    assert read_secret(tmp_path / "key") == b"secret"
    os.symlink(tmp_path / "key", tmp_path / "link")
    with pytest.raises(RefusedError):
        read_secret(tmp_path / "link")
    with pytest.raises(InputError):
        write_secret(tmp_path / "link", b"other")
