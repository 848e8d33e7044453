"""Which places are asked: those that were named, and not one more."""

from __future__ import annotations

import pytest

from fairlead.doctor.places import USUAL_PORTS, BadPlace, Place, parse_ports, places


def asked(*named: str, ports: tuple[int, ...] = (1, 2)) -> list[str]:
    return [place.url for place in places(named, ports)]


@pytest.mark.parametrize(
    ("named", "urls"),
    [
        ("gpu1", ["http://gpu1:1", "http://gpu1:2"]),
        ("gpu1:8000", ["http://gpu1:8000"]),
        ("http://gpu1:8000/", ["http://gpu1:8000"]),
        ("https://gpu1", ["https://gpu1:443"]),
        ("http://gpu1", ["http://gpu1:1", "http://gpu1:2"]),
        ("[::1]:8000", ["http://[::1]:8000"]),
        ("::1", ["http://[::1]:1", "http://[::1]:2"]),
        ("[::1]", ["http://[::1]:1", "http://[::1]:2"]),
        ("10.0.0.9/32", ["http://10.0.0.9:1", "http://10.0.0.9:2"]),
    ],
)
def test_what_is_named_is_asked(named: str, urls: list[str]) -> None:
    assert asked(named) == urls


def test_a_small_network_is_asked_without_its_own_address_and_its_broadcast() -> None:
    assert asked("10.0.0.0/30", ports=(8000,)) == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    assert len(asked("10.0.1.0/24", ports=(8000,))) == 254
    assert len(asked("fd00::/120", ports=(8000,))) == 255


def test_nothing_named_means_the_usual_ports_of_this_machine() -> None:
    assert places([]) == [Place("127.0.0.1", port) for port in USUAL_PORTS]
    assert {8000, 8010, 8080, 30000, 3000, 11434, 23333} <= set(USUAL_PORTS)


def test_a_place_named_twice_is_asked_once() -> None:
    assert asked("a", "a:1", "a:2", "b:1") == ["http://a:1", "http://a:2", "http://b:1"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("10.0.0.0/8", "/24 or smaller"),
        ("10.0.0.0/23", "/24 or smaller"),
        ("fd00::/64", "/120 or smaller"),
        ("10.0.0.0/99", "small network"),
        ("gpu1/x", "small network"),
        ("gpu1:", "after the colon"),
        ("gpu1:0", "1 to 65535"),
        ("gpu1:70000", "1 to 65535"),
        ("gpu1:x", "such as 8000-8010"),
        ("gpu1:8000-8010", "--ports"),
        ("http://gpu1:8000/v1", "nothing behind it"),
        ("http://user:secret@gpu1", "nothing behind it"),
        ("http://[::1", "no URL"),
        ("[::1", "[IPV6]:PORT"),
        ("::zz", "IPv6"),
        ("a b", "HOST"),
        ("", "HOST"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_write(named: str, words: str) -> None:
    with pytest.raises(BadPlace) as caught:
        asked(named)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_too_many_places_in_all_are_refused() -> None:
    with pytest.raises(BadPlace, match="fewer hosts"):
        places([f"10.0.{third}.0/24" for third in range(9)], tuple(range(8000, 8004)))


@pytest.mark.parametrize(
    ("text", "ports"),
    [("8000", (8000,)), ("8000-8002,30000", (8000, 8001, 8002, 30000)), (" 1 , 1-2 ", (1, 2)), ("65535", (65535,))],
)
def test_lists_of_ports(text: str, ports: tuple[int, ...]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "0", "65536", "1,,2", "1-2-3", "9999999999999999999"])
def test_bad_lists_of_ports(text: str) -> None:
    with pytest.raises(BadPlace):
        parse_ports(text)
