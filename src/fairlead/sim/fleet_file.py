"""A fleet in a YAML file: own engine coefficients, machines, faults. All problems at once, with their paths.

profiles:
  my-gpu: {like: h100-8b, prefill: 35us, base: 9ms, kv_tokens: 200000}
backends:
  - {profile: my-gpu, count: 2}
  - {profile: l4-8b, weight: 0.5, slowdown: 1.5}
faults:
  - slow@60-160:my-gpu-1:4
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml

from fairlead.emulator.profiles import PROFILES, Profile
from fairlead.sim.fleet import MAX_BACKENDS, Fault, Fleet, FleetError, Member, check_faults, parse_fault

UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
TIMES: Final = ("base", "prefill", "attention", "kv_read", "sequence")
COUNTS: Final = ("kv_tokens", "token_budget", "max_num_seqs", "max_model_len")  # the trace sets the tokens per block
MAX_COUNT: Final = 1_000_000_000
MAX_TIME: Final = 3_600.0  # seconds
MAX_BYTES: Final = 1 << 20
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|ms|us|ns)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Reader:
    """Collects problems; a problem names file, path, value and what to write."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def say(self, path: str, problem: str) -> None:
        self.problems.append(f"{self.file}: {path}: {problem}" if path else f"{self.file}: {problem}")

    def table(self, value: Any, path: str, known: Iterable[str]) -> dict[str, Any]:
        """The table with the keys that are known."""
        known = tuple(known)
        if not isinstance(value, dict):
            self.say(path, f"expected a table with {', '.join(known)}, got {reprlib.repr(value)}")
            return {}
        for key in value:
            if key not in known:
                self.say(f"{path}.{key}" if path else str(key), f"unknown; {_hint(str(key), known)}")
        return {key: value[key] for key in known if key in value}

    def time(self, value: Any, path: str) -> float | None:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        seconds = float(match[1]) * UNITS[match[2]] if match is not None else 0.0
        if match is None or seconds > MAX_TIME:
            self.say(path, f"expected a time with its unit, such as 6.8ms or 20us, got {reprlib.repr(value)}")
            return None
        return seconds

    def count(self, value: Any, path: str, high: int = MAX_COUNT) -> int | None:
        if type(value) is not int or not 1 <= value <= high:
            self.say(path, f"expected a whole number from 1 to {high}, got {reprlib.repr(value)}")
            return None
        return value

    def number(self, value: Any, path: str, low: float, high: float) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.say(path, f"expected a number from {low:g} to {high:g}, got {reprlib.repr(value)}")
            return None
        return float(value)

    def profiles(self, value: Any) -> dict[str, Profile]:
        """The built-in ones and those of the file, which go first where they are called alike."""
        found = dict(PROFILES)
        if not isinstance(value, dict):
            self.say("profiles", f"expected a table of profiles by their names, got {reprlib.repr(value)}")
            return found
        for name, row in value.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                self.say(f"profiles.{name}", "expected a name of letters, digits, '.', '_' and '-', quoted if a number")
            elif (made := self.profile(name, row)) is not None:
                found[name] = made
            else:
                found.setdefault(name, PROFILES["h100-8b"])  # so that who uses it is not blamed too
        return found

    def profile(self, name: str, value: Any) -> Profile | None:
        path, before = f"profiles.{name}", len(self.problems)
        row = self.table(value, path, ("like", *TIMES, *COUNTS))
        like = row.get("like", "h100-8b")
        found = PROFILES.get(like) if isinstance(like, str) else None
        if found is None:
            self.say(f"{path}.like", f"unknown profile {reprlib.repr(like)}; {_hint(str(like), PROFILES)}")
            return None
        changes: dict[str, Any] = {"name": name}
        for key in TIMES:
            if key in row:
                changes[key] = self.time(row[key], f"{path}.{key}")
        if changes.get("base") == 0:
            self.say(f"{path}.base", f"expected more than 0: every step takes time, got {row['base']!r}")
        for key in COUNTS:
            if key in row:
                changes[key] = self.count(row[key], f"{path}.{key}")
        if len(self.problems) > before:
            return None
        held = changes.get("kv_tokens", found.kv_tokens) // found.block_tokens * found.block_tokens
        if "max_model_len" not in changes:
            changes["max_model_len"] = max(min(found.max_model_len, held), 1)
        try:
            return dataclasses.replace(found, **changes)
        except ValueError as problem:
            self.say(path, str(problem).partition(": ")[2])
            return None

    def members(self, value: Any, profiles: dict[str, Profile]) -> list[Member]:
        if not isinstance(value, list) or not value:
            self.say("backends", f"expected a list such as [{{profile: h100-8b, count: 2}}], got {reprlib.repr(value)}")
            return []
        members: list[Member] = []
        used: dict[str, int] = {}
        for i, item in enumerate(value):
            path = f"backends[{i}]"
            row = self.table(item, path, ("profile", "count", "weight", "slowdown"))
            if not isinstance(item, dict):
                continue
            name = row.get("profile")
            found = profiles.get(name) if isinstance(name, str) else None
            if found is None:
                self.say(f"{path}.profile", f"unknown profile {reprlib.repr(name)}; {_hint(str(name), profiles)}")
            count = self.count(row.get("count", 1), f"{path}.count", MAX_BACKENDS) or 0
            weight = self.number(row["weight"], f"{path}.weight", 0.001, 1000.0) if "weight" in row else None
            slow = self.number(row.get("slowdown", 1.0), f"{path}.slowdown", 0.01, 1e6) or 1.0
            if found is None:
                continue
            start = used.get(found.name, 0)
            used[found.name] = start + count
            if sum(used.values()) > MAX_BACKENDS:
                self.say(path, f"with these there are more than {MAX_BACKENDS} machines")
                return []
            members += [Member(f"{name}-{start + k + 1}", found, weight, slow) for k in range(count)]
        return members

    def faults(self, value: Any) -> list[Fault]:
        if not isinstance(value, list):
            self.say("faults", f"expected a list such as [slow@60-160:h100-8b-1:4], got {reprlib.repr(value)}")
            return []
        found: list[Fault] = []
        for i, item in enumerate(value):
            try:
                found.append(parse_fault(item if isinstance(item, str) else reprlib.repr(item)))
            except FleetError as problem:
                self.say(f"faults[{i}]", str(problem))
        return found


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def read_fleet_file(path: str) -> Fleet:
    """The fleet that a file describes; FleetError lists every problem, a line each."""
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise FleetError(f"{path}: {problem.strerror}") from None
    if len(data) > MAX_BYTES:
        raise FleetError(f"{path}: larger than {MAX_BYTES} bytes: this is no fleet file")
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        what = getattr(problem, "problem", None) or str(problem).partition("\n")[0]
        raise FleetError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {what}") from None
    reader = _Reader(path)
    whole = reader.table(document, "", ("profiles", "backends", "faults"))
    if isinstance(document, dict):
        members = reader.members(whole.get("backends"), reader.profiles(whole.get("profiles", {})))
        faults = tuple(reader.faults(whole.get("faults", [])))
        try:
            check_faults(faults)
            if not reader.problems:
                return Fleet(path, tuple(members)).with_faults(faults)
        except FleetError as problem:
            reader.say("faults", str(problem))
    raise FleetError("\n".join(reader.problems))
