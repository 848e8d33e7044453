"""Values as Envoy writes them, and what its configuration says again and again.

Rule 1: plain data in, plain data out; `typed` is the only place that knows how Envoy names its types.
Rule 2: a header value is formatted by Envoy, so a percent sign is doubled and a secret is a reference to a variable.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Final

from fairlead.config.schema import Address
from fairlead.control.exports.secrecy import header_name

CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"
_TYPES: Final = "type.googleapis.com/envoy"
_LARGEST_WEIGHT: Final = 1_000_000

Data = dict[str, Any]


def typed(name: str, **fields: Any) -> Data:
    """A message of Envoy's with the type that it has to name."""
    return {"@type": f"{_TYPES}.{name}", **fields}


def duration(seconds: float) -> str:
    """Seconds with at most nine decimals, as protobuf reads them."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def percent(share: float) -> Data:
    return {"value": float(f"{share * 100:.12g}")}


def socket(host: str, port: int) -> Data:
    return {"socket_address": {"address": host, "port_value": port}}


def place(address: Address, port: int = 8080) -> Data:
    """An address to listen on; `port` where the system was to choose one."""
    return {"pipe": {"path": address.path}} if address.path else socket(address.host, address.port or port)


def weights(given: list[float | None]) -> list[int] | None:
    """Whole numbers from 1 on in the same proportion; None when nobody has one."""
    if all(weight is None for weight in given):
        return None
    exact = [Fraction(1 if weight is None else weight).limit_denominator(1000) for weight in given]
    scale = math.lcm(*(each.denominator for each in exact))
    whole = [max(1, int(each * scale)) for each in exact]
    common = math.gcd(*whole)
    most = max(whole) // common
    shrink = max(1, -(-most // _LARGEST_WEIGHT))
    return [max(1, each // common // shrink) for each in whole]


def file(path: str) -> Data:
    return {"filename": path}


def set_header(header: str, variable: str) -> Data:
    """A header to send in place of the client's; its value comes from the environment."""
    value = f"%ENVIRONMENT({variable})%"
    return {"header": {"key": header_name(header), "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
