"""access_log and log_format -> access_log.

Rule 1: a format of which Fairlead knows every variable becomes a template. Variables it does not know become a dash,
        so that the columns stay where programs look for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fairlead.config.schema import TEMPLATE_NAMES
from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.places import Scope
from fairlead.nginx.tree import Directive

COMBINED: Final = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)
_SAME: Final = {
    "request": "$request_method $request_path HTTP/1.1",
    "request_uri": "$request_path",
    "uri": "$request_path",
    "document_uri": "$request_path",
    "bytes_sent": "$body_bytes_sent",
    "upstream_status": "$status",
    "upstream_response_time": "$request_time",
    "upstream_header_time": "$ttft",
    "http_x_request_id": "$request_id",
    "realip_remote_addr": "$remote_addr",
    "server_protocol": "HTTP/1.1",
}
"""nginx's variables that say nearly the same as one of ours, or are always so."""
_VARIABLE: Final = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_STRAY: Final = re.compile(r"\$(?![A-Za-z_])")
_NO_BRACES: Final = str.maketrans("", "", "{}")
_STANDARD: Final = {"/dev/stdout": "-", "/proc/self/fd/1": "-"}


def read_log(scope: Scope, formats: Mapping[str, Directive], notes: Notes) -> Any:
    """The option `access_log`; None to leave it at its default."""
    lines = scope.all("access_log")
    if not lines:
        return None
    if any(line.args[:1] == ("off",) for line in lines):
        return False
    first, *more = lines
    for line in more:
        notes.left_out(line, "there is one access log")
    path, *rest = first.args or ("-",)
    if path.startswith("syslog:") or "$" in path or not path.isprintable() or path != path.strip() or not path:
        notes.left_out(first, "the access log goes to a file or to standard output")
        return None
    name = rest[0] if rest and "=" not in rest[0] and rest[0] != "gzip" else "combined"
    for parameter in rest:
        if parameter != name:
            notes.left_out(first, f"({parameter}): lines are written in batches, all of them, as they are")
    made: dict[str, Any] = _format(name, formats.get(name), first, notes)
    made["path"] = _STANDARD.get(path, path)
    return made


def _format(name: str, line: Directive | None, log: Directive, notes: Notes) -> dict[str, Any]:
    if line is None:
        if name != "combined":
            notes.left_out(log, f"(log_format {name}) is not there; nginx's own combined is written")
        return {"format": "combined"}
    words = list(line.args[1:])
    escape = words.pop(0) if words and words[0].startswith("escape=") else ""
    text = "".join(words)
    if text == COMBINED:
        return {"format": "combined"}
    if escape == "escape=json" or text.lstrip().startswith("{"):
        notes.changed(line, "is Fairlead's own JSON here: one object for each request, with its own names of fields")
        return {"format": "json"}
    unknown: list[str] = []

    def ours(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable in TEMPLATE_NAMES or variable in _SAME:
            found = _SAME.get(variable, f"${variable}")
            # A name runs on as far as it can, and braces are not ours.
            return f"{found} " if re.match(r"\w", text[match.end() :]) else found
        unknown.append(f"${variable}")
        return "-"

    template = _STRAY.sub("-", " ".join(_VARIABLE.sub(ours, text).split()))
    try:
        values.fitting("access_log.template", template)
    except UnitError as error:
        notes.left_out(line, f"is nginx's combined here: expected {error}")
        return {"format": "combined"}
    if "$request" in (match[0].translate(_NO_BRACES) for match in _VARIABLE.finditer(text)):
        notes.changed(line, "has HTTP/1.1 in $request, whatever the client speaks")
    if unknown:
        notes.changed(line, f"has a dash in place of {', '.join(dict.fromkeys(unknown))}, which Fairlead does not know")
    return {"format": "template", "template": template}
