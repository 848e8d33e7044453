"""The dashboard's files: one static page, its styles and its scripts, as they are served. No build step.

Rule 1: nothing comes from elsewhere, and nothing stands inside the markup: `POLICY` allows only files of this listener.
Rule 2: the files hold nothing of the fleet, so everybody may have them; what they show is asked for by the page.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import Final, NamedTuple

from fairlead import charts

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class File(NamedTuple):
    """One file of the page."""

    body: bytes
    type: str
    tag: str  # changes with the body


def files() -> dict[str, File]:
    """By the name under which the page asks for it; "" is the page itself."""
    found = {"charts.js": charts.script(), "charts.css": charts.style()}
    for entry in importlib.resources.files(__name__).iterdir():
        if entry.name.rpartition(".")[2] in KINDS:
            found[entry.name] = entry.read_text("utf-8")
    found[""] = found.pop("index.html")
    return {name: _file(name or "index.html", text) for name, text in found.items()}


def _file(name: str, text: str) -> File:
    body = text.encode()
    kind = KINDS[name.rpartition(".")[2]]
    return File(body, f"{kind}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:16]}"')
