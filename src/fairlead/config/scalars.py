"""One value of the file: what may stand there, and how is it written back?

Each kind of option has one row in `KINDS`: its reader, its formatter, its JSON Schema and its name in
the docs. A reader takes whatever YAML gave, returns the value in base units or raises `UnitError`.
Rule 1: readers never guess. What is not clearly meant is refused with what to write instead.
Rule 2: reading what the formatter wrote gives the same value again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fairlead.config.problems import did_you_mean, shown
from fairlead.config.schema import Address, Option
from fairlead.config.units import (
    DURATION_PATTERN,
    PERCENT_PATTERN,
    SIZE_PATTERN,
    UnitError,
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)

_LONGEST_TEXT: Final = 1000
LONGEST_SOCKET: Final = 107  # sockaddr_un has 108 bytes, one of them for the NUL
OUR_HEADERS: Final = frozenset((
    "host", "connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "te", "trailer", "expect",
    "via", "x-request-id", "proxy-connection",
))  # fmt: skip
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")
_URL_PATH: Final = re.compile(r"(?:/[A-Za-z0-9/._~%!$&'()*+,;=:@-]*)?")  # RFC 3986 pchar
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")  # RFC 9110 section 5.6.2
_NETLOC: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_ADDRESS: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*):([0-9]{1,5})")


def read_int(raw: object, option: Option) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    hint = None
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,15}", raw):
        hint = f"write {raw} without quotes"
    raise UnitError("a whole number", hint)


def read_float(raw: object, option: Option) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        try:
            return float(raw)
        except OverflowError:
            raise UnitError(f"a number{_range_text(option)}") from None
    hint = None
    if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?", raw):
        hint = f"write {raw} without quotes"
    raise UnitError("a number", hint)


def read_bool(raw: object, option: Option) -> bool:
    if isinstance(raw, bool):
        return raw
    raise UnitError("true or false", "write it without quotes" if raw in ("true", "false") else None)


def read_choice(raw: object, option: Option) -> str:
    text = str(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 <= raw < 1000 else raw
    if isinstance(text, str) and text in option.choices:
        return text
    hint = did_you_mean(text, option.choices) if isinstance(text, str) else None
    raise UnitError(f"one of {', '.join(option.choices)}", hint)


def read_text(raw: object, option: Option) -> str:
    if not isinstance(raw, str):
        hint = "put it in quotes" if isinstance(raw, int | float) and not isinstance(raw, bool) else None
        raise UnitError("text", hint)
    if not raw or raw != raw.strip() or not raw.isprintable():
        raise UnitError("text without control characters or blanks around it")
    if len(raw) > _LONGEST_TEXT:
        raise UnitError(f"at most {_LONGEST_TEXT} characters")
    return raw


def read_token(raw: object, option: Option) -> str:
    if not isinstance(raw, str) or not _TOKEN.fullmatch(raw):
        raise UnitError("a name of letters, digits and dashes, such as x-session-id")
    return raw


def read_address(raw: object, option: Option) -> Address:
    expected = "HOST:PORT"
    if isinstance(raw, str) and raw.startswith("unix:"):
        return Address("", 0, _socket_path(raw))
    if not isinstance(raw, str):
        is_port = isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw < 65536
        raise UnitError(expected, f"write 127.0.0.1:{raw} or 0.0.0.0:{raw}" if is_port else None)
    match = _ADDRESS.fullmatch(raw)
    if match is None:
        raise UnitError(expected, _address_hint(raw))
    host, port = match[1], int(match[2])
    if host in ("", "*"):
        raise UnitError(expected, f"for all interfaces write 0.0.0.0:{port} or [::]:{port}")
    if port > 65535:
        raise UnitError(expected, "a port is at most 65535")
    return Address(_host(host, expected), port)


def read_url(raw: object, option: Option) -> str:
    """A base URL in the one spelling that is compared: small letters, no default port, no last slash."""
    if isinstance(raw, str):
        if raw.startswith("unix:"):
            return f"unix:{_socket_path(raw)}"
        path = raw.removeprefix("http://unix:")  # nginx's spelling, where a colon ends the path
        if path.startswith("/"):
            raise UnitError("http:// or https://", f"for a Unix socket write unix:{path.partition(':')[0]}")
    return read_link(raw, option).rstrip("/")


def read_link(raw: object, option: Option) -> str:
    expected = "http:// or https://"
    if not isinstance(raw, str):
        raise UnitError(expected)
    text = raw
    if "://" not in text and re.fullmatch(r"(?:\[[^\[\]]*\]|[^:/?#@\[\]]+):[0-9]+(?:/.*)?", text):
        text = f"http://{text}"
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        plain = not separator and _HOST.fullmatch(raw)
        raise UnitError(expected, f"write http://{raw}:8000" if plain else None)
    if "?" in rest or "#" in rest:
        raise UnitError("a URL without ? and #", "leave everything from the ? or # on away")
    if "@" in rest.partition("/")[0]:
        raise UnitError("a URL without a user name", "clients send their own keys; they are passed on")
    netloc = rest.partition("/")[0]
    path = rest[len(netloc) :]
    match = _NETLOC.fullmatch(netloc)
    if match is None:
        raise UnitError("http://HOST:PORT")
    if not _URL_PATH.fullmatch(path):
        raise UnitError("a URL path of plain letters, digits and signs")
    host, scheme = _host(match[1], "http://HOST:PORT"), scheme.lower()
    usual = {"http": 80, "https": 443}[scheme]
    port = int(match[2] or usual)
    if not 0 < port < 65536:
        raise UnitError("http://HOST:PORT with a port from 1 to 65535")
    port_text = "" if port == usual else f":{port}"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{port_text}{path}"


def read_secret_url(raw: object, option: Option) -> str:
    """A URL that may hold a key, in its path or after a ?; it is sent as it stands."""
    if not isinstance(raw, str) or not raw.lower().startswith(("http://", "https://")):
        raise UnitError("a URL that begins with http:// or https://")
    if not raw.isascii() or not raw.isprintable() or " " in raw or len(raw) > _LONGEST_TEXT:
        raise UnitError(f"a URL of printable ASCII without spaces, at most {_LONGEST_TEXT} characters")
    if "@" in raw.partition("://")[2].partition("/")[0]:
        raise UnitError("a URL without a user name", "write it into headers, as Authorization")
    read_link(raw.partition("?")[0], option)
    return raw


def read_http_path(raw: object, option: Option) -> str:
    if isinstance(raw, str) and raw in option.choices:
        return raw
    words = "".join(f"{word} or " for word in option.choices)
    if not isinstance(raw, str) or not raw.startswith("/"):
        hint = f"write /{raw}" if isinstance(raw, str) and _URL_PATH.fullmatch(f"/{raw}") and raw else None
        if isinstance(raw, str) and option.choices:
            hint = did_you_mean(raw, option.choices) or hint
        raise UnitError(f"{words}a path that begins with /", hint)
    if not _URL_PATH.fullmatch(raw.partition("?")[0]) or not raw.isascii() or not raw.isprintable():
        raise UnitError(f"{words}a path of plain letters, digits and signs")
    if " " in raw:
        raise UnitError(f"{words}a path without blanks", "write %20 for a blank")
    return raw


def read_header(raw: object, option: Option) -> str:
    """`Name: value` in one spelling. What frames a message or belongs to a connection is ours to write."""
    expected = "a header as `Name: value`"
    if not isinstance(raw, str):
        raise UnitError(expected, "put it in quotes" if isinstance(raw, dict) else None)
    name, colon, value = raw.partition(":")
    value = value.strip()
    if not colon or not _TOKEN.fullmatch(name):
        raise UnitError(expected)
    if not value.isascii() or not value.isprintable() or len(raw) > _LONGEST_TEXT:
        raise UnitError(f"{expected} of printable ASCII, at most {_LONGEST_TEXT} characters")
    if name.lower() in OUR_HEADERS:
        raise UnitError("a header that is not Fairlead's own to write", f"leave {name} away")
    return f"{name}: {value}"


def read_header_name(raw: object, option: Option) -> str:
    name = read_token(raw, option)
    if name.lower() in OUR_HEADERS:
        raise UnitError("a header that is not Fairlead's own to write", f"leave {name} away")
    return name.lower()


def read_network(raw: object, option: Option) -> str:
    """An address or a network in CIDR form; `unix` for peers on Unix sockets."""
    if raw == "unix":
        return "unix"
    expected = "an address or a network such as 10.0.0.0/8, or unix"
    if not isinstance(raw, str):
        raise UnitError(expected)
    if "%" in raw:  # Python takes it, but peers are compared without their zone
        raise UnitError(expected, f"write {raw.partition('%')[0]}")
    try:
        return str(ipaddress.ip_network(raw))
    except ValueError:
        hint = None
        with contextlib.suppress(ValueError):  # bits are set behind the prefix: which of the two is meant?
            hint = f"write {ipaddress.ip_network(raw, strict=False)}, or {ipaddress.ip_interface(raw).ip} for the one"
        raise UnitError(expected, hint) from None


def _socket_path(raw: str) -> str:
    path = raw.removeprefix("unix:")
    if not path.startswith("/") or not path.isprintable() or path.endswith("/"):
        raise UnitError("unix: and the absolute path of a socket file", "such as unix:/run/fairlead.sock")
    plain = f"/{posixpath.normpath(path).lstrip('/')}"
    if path != plain:  # or one socket could be written in two ways, and be counted twice
        raise UnitError("a socket path without //, . and ..", f"write unix:{plain}")
    if len(path.encode()) > LONGEST_SOCKET:
        raise UnitError(f"a socket path of at most {LONGEST_SOCKET} bytes (the system's limit)")
    return path


def read_duration(raw: object, option: Option) -> float | str:
    """A duration; or one of the words that this option knows."""
    if isinstance(raw, str) and raw in option.choices:
        return raw
    try:
        return parse_duration(raw)
    except UnitError as error:
        words = "".join(f"{word} or " for word in option.choices)
        raise UnitError(words + error.expected, error.hint) from None


def check_range(value: Any, kind: str, option: Option) -> None:
    if (value == 0 and option.zero) or value in option.choices:
        return
    low_ok = option.low is None or value >= option.low
    high_ok = option.high is None or value <= option.high
    if not (low_ok and high_ok):  # written so that NaN, which compares false, is refused
        raise UnitError(f"{KINDS[kind].article}{_range_text(option)}")


def _range_text(option: Option) -> str:
    row = KINDS[option.kind]
    if option.low is None or option.high is None:
        return ""
    text = f" from {row.write(option.low)} to {row.write(option.high)}"
    return f"{text}, or 0" if option.zero else text


def _host(text: str, expected: str) -> str:
    """A host name or IP address in its usual spelling, without brackets."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise UnitError(f"{expected} with a valid IPv6 address") from None
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise UnitError(f"{expected} with a valid IPv4 address") from None
    if not _HOST.fullmatch(text):
        raise UnitError(f"{expected} with a host name of letters, digits, dots and dashes")
    return text.lower()


def _address_hint(raw: str) -> str | None:
    if "://" in raw:
        return "leave the http:// away"
    if raw.startswith("/"):
        return f"for a Unix socket write unix:{raw}"
    if raw.count(":") > 1:
        return "an IPv6 host stands in brackets, such as [::1]:8080"
    if re.fullmatch(r"[0-9]{1,5}", raw):
        return f"write 127.0.0.1:{raw} or 0.0.0.0:{raw}"
    return f"write {raw}:8080" if _HOST.fullmatch(raw) else None


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is read, written back, described to an editor and named in the docs."""

    read: Callable[[object, Option], Any]
    write: Callable[[Any], Any]
    schema: Callable[[Option], dict[str, Any]]
    doc: str
    article: str = ""
    ranged: bool = False
    show: Callable[[object], str] = shown  # in problems


def _plain(value: Any) -> Any:
    return value


def _without_value(raw: object) -> str:
    """A header as problems may show it: its value may be a key."""
    if not isinstance(raw, str):
        return shown(raw)
    name, colon, _ = raw.partition(":")
    return shown(f"{name}: ...") if colon and _TOKEN.fullmatch(name) else "other text"


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _bounds(option: Option) -> dict[str, Any]:
    pairs = (("minimum", option.low), ("maximum", option.high))
    return {name: _short(value) for name, value in pairs if value is not None}


def _text(pattern: str | None = None) -> Callable[[Option], dict[str, Any]]:
    found = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return lambda option: dict(found)


def _choice_schema(option: Option) -> dict[str, Any]:
    whole = [int(word) for word in option.choices if word.isdigit()]  # 502 needs no quotes, nor does 1.2
    parts = [float(word) for word in option.choices if re.fullmatch(r"[0-9]+\.[0-9]+", word)]
    return {"enum": [*option.choices, *whole, *parts]}


def _unit_schema(pattern: str, **number: Any) -> Callable[[Option], dict[str, Any]]:
    def schema(option: Option) -> dict[str, Any]:
        branches: list[dict[str, Any]] = [{"const": word} for word in option.choices]
        branches.append({"type": "string", "pattern": pattern})
        if number:
            branches.append(dict(number))
        elif option.zero or option.low == 0:
            branches.append({"const": 0})
        return branches[0] if len(branches) == 1 else {"anyOf": branches}

    return schema


KINDS: Final[dict[str, Kind]] = {
    "duration": Kind(
        read_duration, lambda value: value if isinstance(value, str) else format_duration(value),
        _unit_schema(DURATION_PATTERN), "duration", "a duration", ranged=True,
    ),
    "size": Kind(
        lambda raw, option: parse_size(raw), lambda size: format_size(int(size)),
        _unit_schema(SIZE_PATTERN), "size", "a size", ranged=True,
    ),
    "percent": Kind(
        lambda raw, option: parse_percent(raw), format_percent,
        _unit_schema(PERCENT_PATTERN, type="number", minimum=0, maximum=1), "share", "a share", ranged=True,
    ),
    "int": Kind(
        read_int, _short, lambda option: {"type": "integer"} | _bounds(option),
        "whole number", "a whole number", ranged=True,
    ),
    "float": Kind(
        read_float, _short, lambda option: {"type": "number"} | _bounds(option),
        "number", "a number", ranged=True,
    ),
    "bool": Kind(read_bool, _plain, lambda option: {"type": "boolean"}, "true or false"),
    "choice": Kind(read_choice, _plain, _choice_schema, "one of"),
    "text": Kind(read_text, _plain, _text(), "text"),
    "token": Kind(read_token, _plain, _text(f"^{_TOKEN.pattern}$"), "name"),
    "file": Kind(read_text, _plain, _text(), "file"),
    "header": Kind(read_header, _plain, _text(r"^[^:]+:"), "`Name: value`", show=_without_value),
    "header_name": Kind(read_header_name, _plain, _text(f"^{_TOKEN.pattern}$"), "name"),
    "network": Kind(read_network, _plain, _text(r"^[0-9a-fA-F.:/]+$|^unix$"), "address or network"),
    "address": Kind(read_address, str, _text(r"^.+:[0-9]{1,5}$|^unix:/"), "HOST:PORT"),
    "url": Kind(read_url, _plain, _text(r"^([hH][tT][tT][pP][sS]?://)?[^?#@]+$|^unix:/"), "URL"),
    "link": Kind(read_link, _plain, _text(r"^([hH][tT][tT][pP][sS]?://)?[^?#@]+$"), "URL"),
    "secret_url": Kind(
        read_secret_url, _plain, _text(r"^[hH][tT][tT][pP][sS]?://"), "URL",
        show=lambda raw: "other text" if isinstance(raw, str) else shown(raw),
    ),
    "http_path": Kind(
        read_http_path, _plain,
        lambda option: {"anyOf": [{"enum": list(option.choices)}, {"type": "string", "pattern": "^/"}]}
        if option.choices else {"type": "string", "pattern": "^/"},
        "path",
    ),
}  # fmt: skip
