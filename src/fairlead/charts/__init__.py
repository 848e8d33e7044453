"""The charts of Fairlead's pages: how do the script, the style and the data get into one HTML file, safely?

Rule 1: such a page needs nothing from elsewhere and may fetch nothing: `policy` allows exactly the given scripts and
styles, by their hashes, and no connection, image, font, frame or form.
Rule 2: data cannot end the element that it stands in: `embed` leaves no "<" in it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any


def script() -> str:
    """charts.js: what it draws and from what is said at its top."""
    return _text("charts.js")


def style() -> str:
    """charts.css: the charts and the page around them."""
    return _text("charts.css")


def embed(data: Any) -> str:
    """JSON to stand in a <script type="application/json">; the same data give the same text."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c")


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """A Content-Security-Policy for a page with these inline scripts and styles."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _text(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(name).read_text("utf-8")
