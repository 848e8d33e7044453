"""What a certificate says of itself that Python's ssl keeps to itself: its host names and its last day.

Reads just these two from DER (X.690) and checks no signature: OpenSSL decides what is trusted, this is for choosing by
SNI and for telling people when a certificate ends. Anything that is cut short or not as RFC 5280 lays it out is
`BadCertificate`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

SEQUENCE: Final = 0x30
OCTETS: Final = 0x04
BOOLEAN: Final = 0x01
OID: Final = 0x06
UTC_TIME, GENERAL_TIME = 0x17, 0x18
VERSION: Final = 0xA0  # [0] explicit
EXTENSIONS: Final = 0xA3  # [3] explicit
DNS_NAME: Final = 0x82  # [2] of GeneralName
SUBJECT_ALT_NAME: Final = b"\x55\x1d\x11"  # 2.5.29.17


class BadCertificate(Exception):
    """These bytes are no certificate."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What we want to know of a certificate."""

    names: tuple[str, ...]  # host names in small letters, with wildcards as they stand
    expires: float  # unix time


def read_certificate(der: bytes) -> CertificateFacts:
    """Names and last day of one certificate; BadCertificate."""
    certificate, end = _value(der, 0, SEQUENCE)
    if end != len(der):
        raise BadCertificate("bytes stand behind the certificate")
    body, _ = _value(certificate, 0, SEQUENCE)
    at = 0
    if body[:1] == bytes((VERSION,)):
        at = _next(body, at)
    for _ in range(3):  # serial number, signature algorithm, issuer
        at = _next(body, at)
    validity, at = _value(body, at, SEQUENCE)
    expires = _time(validity, _next(validity, 0))
    names: tuple[str, ...] = ()
    while at < len(body):
        if body[at] == EXTENSIONS:
            names = _names(_value(_value(body, at, EXTENSIONS)[0], 0, SEQUENCE)[0])
        at = _next(body, at)
    return CertificateFacts(names, expires)


def _names(extensions: bytes) -> tuple[str, ...]:
    at = 0
    while at < len(extensions):
        extension, at = _value(extensions, at, SEQUENCE)
        oid, inner = _value(extension, 0, OID)
        if oid != SUBJECT_ALT_NAME:
            continue
        if extension[inner : inner + 1] == bytes((BOOLEAN,)):  # critical or not
            inner = _next(extension, inner)
        listed, _ = _value(_value(extension, inner, OCTETS)[0], 0, SEQUENCE)
        found, place = [], 0
        while place < len(listed):
            tag = listed[place]
            value, place = _element(listed, place)
            if tag == DNS_NAME and value.isascii():
                found.append(value.decode("ascii").lower())
        return tuple(found)
    return ()


def _time(data: bytes, at: int) -> float:
    tag = data[at] if at < len(data) else 0
    value, _ = _element(data, at)
    try:
        text = value.decode("ascii")
        if tag == UTC_TIME:  # RFC 5280 section 4.1.2.5.1: years 1950 to 2049
            text = ("19" if text >= "50" else "20") + text
        elif tag != GENERAL_TIME:
            raise ValueError
        return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        raise BadCertificate("its last day cannot be read") from None


def _element(data: bytes, at: int) -> tuple[bytes, int]:
    """(content, where the next element begins) of the element at `at`."""
    if at + 2 > len(data):
        raise BadCertificate("it is cut short")
    length, begin = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or begin + size > len(data):
            raise BadCertificate("it is cut short")
        length, begin = int.from_bytes(data[begin : begin + size]), begin + size
    if begin + length > len(data):
        raise BadCertificate("it is cut short")
    return data[begin : begin + length], begin + length


def _value(data: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """The same for an element that has to be of this kind."""
    if data[at : at + 1] != bytes((tag,)):
        raise BadCertificate("it is not laid out as a certificate")
    return _element(data, at)


def _next(data: bytes, at: int) -> int:
    return _element(data, at)[1]
