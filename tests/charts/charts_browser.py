"""A page in a real browser, without a display: what is in it after its scripts ran, and what they complained about."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: what charts.js draws is not looked at")

WATCH = """
window.addEventListener("error", (event) => console.error("uncaught: " + event.message));
window.addEventListener("unhandledrejection", (event) => console.error("uncaught: " + event.reason));
"""


def dom(page: str, folder: Path, width: int = 1200) -> tuple[str, list[str]]:
    """(the document after the scripts ran, what was written to the console)."""
    assert BROWSER is not None
    file = folder / "page.html"
    file.write_text(page, "utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            "--virtual-time-budget=5000", f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}",
            file.as_uri(),
        ],
        capture_output=True,
        timeout=100,
        check=True,
    )  # fmt: skip
    told = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), told


def attributes(document: str, tag: str, name: str) -> list[str]:
    """The values of an attribute, of all elements of that kind that have it."""
    return [unescape(value) for value in re.findall(rf'<{tag}\b[^>]*? {name}="([^"]*)"', document)]
