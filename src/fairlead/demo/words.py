"""How numbers are written for people."""

from __future__ import annotations


def seconds(value: float | None) -> str:
    """31 ms, 1.30 s, 19.5 s; a dash where there is nothing."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def ratio(value: float | None) -> str:
    """45%."""
    return "-" if value is None else f"{value:.0%}"


def time_left(value: float) -> str:
    """Roughly, as nobody knows exactly."""
    if value <= 0:
        return "done"
    step = 5 if value > 20 else 1
    return f"about {max(round(value / step) * step, 1)} s left"


def two_lines(name: str, width: int = 14) -> str:
    """A policy's name, broken at an underscore if it is long, so that columns stay narrow."""
    if len(name) <= width:
        return name
    places = [place for place, letter in enumerate(name) if letter == "_" and place <= width]
    return name if not places else f"{name[: places[-1]]}\n{name[places[-1] :]}"
