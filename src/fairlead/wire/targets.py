"""Request targets: could two servers take this one for two paths?

Such a target would be routed by one reading and served by the other, so it is refused, and never rewritten (RFC 9110
section 7.7): what is refused here has a plain spelling that the client can use. The query is passed on as it is.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from fairlead.wire.fields import bad_framing

# What nobody reads in two ways, as nearly all targets are: plain segments, and a query without # and \.
_PLAIN: Final = re.compile(rb"(?:/|(?:/[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*+)++/?)(?:\?[!-\x22$-\x5b\x5d-~]*+)?")
# Escapes that a path may hold: not those of what may stand plainly (letters, digits, - . _ ~), of what separates or
# ends (/ \ ; ? # %), or of controls.
_PATH: Final = re.compile(
    rb"(?:[\w/.~!$&'()*+,=:@-]"
    rb"|%(?:2[0124689AaBbCc]|3[AaCcDdEe]|40|5[BbDdEe]|60|7[BbCcDd]|[89A-Fa-f][0-9A-Fa-f]))*+"
)
_DOTS: Final = frozenset((b".", b".."))


def check_target(target: bytes) -> None:
    """Refuse an origin-form target that is not clear; BadHttp."""
    if _PLAIN.fullmatch(target) is not None:
        return
    path = target.partition(b"?")[0]
    if b"#" in target or b"\\" in target:
        raise bad_framing("the request target holds a fragment or a backslash")
    if _PATH.fullmatch(path) is None:
        raise bad_framing("the path holds a character or an escape that servers read differently")
    if b"//" in path or not _DOTS.isdisjoint(path.split(b"/")):
        raise bad_framing("the path holds an empty or a dot segment")
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise bad_framing("the path's escapes are not UTF-8") from None
