"""Certificate files: what is read from them, and what is said of those that cannot be used?"""

from __future__ import annotations

import datetime
import random
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tls_peers import Authority

from fairlead.proxy.tls import ClientTls, Pair, ServerTls, TlsProblem, make_client, make_server
from fairlead.wire.x509 import BadCertificate, read_certificate


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def der_of(leaf: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


@pytest.mark.parametrize(
    "names",
    [
        ("one.test",),
        ("*.wild.test", "Two.test"),
        ("a.test", "10.0.0.1", "::1", "b.test"),
        ("10.0.0.1",),
        ("xn--bcher-kva.test",),
    ],
)
@pytest.mark.parametrize("expires", [datetime.datetime(2049, 12, 31, 23, 59, 59), datetime.datetime(2050, 1, 1)])
def test_names_and_last_day_are_those_that_a_full_parser_finds(
    ca: Authority, names: tuple[str, ...], expires: datetime.datetime
) -> None:
    der = der_of(ca.issue(*names, expires=expires.replace(tzinfo=datetime.UTC)))
    facts = read_certificate(der)
    full = x509.load_der_x509_certificate(der)
    listed = full.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert facts.names == tuple(name.lower() for name in listed.get_values_for_type(x509.DNSName))
    assert facts.expires == full.not_valid_after_utc.timestamp()


def test_a_certificate_without_names_has_none(ca: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(Path(ca.file).read_text())
    assert read_certificate(der).names == ()


def test_what_is_cut_short_or_spoilt_is_refused_or_read_and_raises_nothing_else(ca: Authority) -> None:
    der = der_of(ca.issue("one.test", "*.two.test"))
    for end in range(len(der)):
        with pytest.raises(BadCertificate):
            read_certificate(der[:end])
    with pytest.raises(BadCertificate):
        read_certificate(der + b"\0")
    rng = random.Random(75)
    for _ in range(5_000):
        spoilt = bytearray(der)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        try:
            read_certificate(bytes(spoilt))
        except BadCertificate:
            continue


def with_passphrase(leaf: trustme.LeafCert) -> bytes:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_files_that_cannot_be_used_are_named_with_the_reason(ca: Authority, tmp_path: Path) -> None:
    good, other = ca.pair("good", "good.test"), ca.pair("other", "other.test")
    (tmp_path / "text").write_text("no PEM at all")
    (tmp_path / "locked").write_bytes(with_passphrase(ca.issue("locked.test")))
    text, gone, locked = str(tmp_path / "text"), str(tmp_path / "gone"), str(tmp_path / "locked")
    cases: list[tuple[ServerTls, str]] = [
        (ServerTls((Pair(gone, good["key"]),)), f"{gone}: no such file or directory"),
        (ServerTls((Pair(good["cert"], gone),)), f"{gone}: no such file or directory"),
        (ServerTls((Pair(str(tmp_path), good["key"]),)), f"{tmp_path}: is a directory"),
        (ServerTls((Pair(text, good["key"]),)), f"{text}: this is no certificate in PEM form"),
        (ServerTls((Pair(good["cert"], text),)), f"{text}: this is no private key in PEM form"),
        (ServerTls((Pair(good["cert"], locked),)), f"{locked}: this key has a passphrase: write it without one"),
        (
            ServerTls((Pair(good["cert"], other["key"]),)),
            f"{other['key']}: does not belong to that certificate ({good['cert']})",
        ),
        (
            ServerTls((Pair(**good), Pair(**ca.pair("nameless", "10.0.0.1")))),
            "names no host (subjectAltName), so that no client could ask for it",
        ),
        (ServerTls((Pair(**good),), client_ca=text, client_certs="required"), f"{text}: holds no CA certificates"),
        (ServerTls((Pair(**good),), client_ca=gone, client_certs="optional"), f"{gone}: no such file or directory"),
        (ServerTls((Pair(**good),), client_certs="required"), "client_certs: required needs client_ca"),
    ]
    for settings, said in cases:
        with pytest.raises(TlsProblem) as caught:
            make_server(settings)
        assert said in str(caught.value), settings
    make_server(ServerTls((Pair(**good), Pair(**other))))
    for outward, said in [
        (ClientTls(ca=gone), f"{gone}: no such file or directory"),
        (ClientTls(ca=text), f"{text}: holds no CA certificates"),
        (ClientTls(cert=good["cert"], key=other["key"]), f"{other['key']}: does not belong to that certificate"),
        (ClientTls(cert=good["cert"], key=locked), f"{locked}: this key has a passphrase"),
    ]:
        with pytest.raises(TlsProblem) as caught:
            make_client(outward)
        assert said in str(caught.value), outward
