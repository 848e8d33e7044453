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
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml

from fairlead.emulator.profiles import PROFILES, Profile
from fairlead.sim.fleet import MAX_BACKENDS, Fault, Fleet, FleetError, Member, parse_fault

UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
TIMES: Final = ("base", "prefill", "attention", "kv_read", "sequence")
COUNTS: Final = ("kv_tokens", "token_budget", "max_num_seqs", "max_model_len", "block_tokens")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|ms|us|ns)")
MAX_BYTES: Final = 1 << 20


class _Reader:
    """Collects problems; a problem names file, path, value and what to write."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def say(self, path: str, problem: str) -> None:
        self.problems.append(f"{self.file}: {path}: {problem}")

    def table(self, value: Any, path: str, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.say(path, f"expected a table with {', '.join(known)}, got {value!r:.60}")
            return {}
        for key in value:
            if key not in known:
                near = get_close_matches(str(key), known, n=1, cutoff=0.5)
                self.say(f"{path}.{key}" if path else str(key), f"unknown; {self._hint(near, known)}")
        return value

    @staticmethod
    def _hint(near: list[str], known: tuple[str, ...]) -> str:
        return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"

    def time(self, value: Any, path: str) -> float | None:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.say(path, f"expected a time with its unit, such as 6.8ms or 20us, got {value!r:.60}")
            return None
        return float(match[1]) * UNITS[match[2]]

    def count(self, value: Any, path: str, high: int = 1 << 40) -> int | None:
        if type(value) is not int or not 1 <= value <= high:
            self.say(path, f"expected a whole number from 1 to {high}, got {value!r:.60}")
            return None
        return value

    def number(self, value: Any, path: str, low: float, high: float) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.say(path, f"expected a number from {low:g} to {high:g}, got {value!r:.60}")
            return None
        return float(value)

    def profile(self, name: str, value: Any) -> Profile | None:
        path = f"profiles.{name}"
        row = self.table(value, path, ("like", *TIMES, *COUNTS))
        like = row.get("like", "h100-8b")
        found = PROFILES.get(like) if isinstance(like, str) else None
        if found is None:
            near = get_close_matches(str(like), PROFILES, n=1, cutoff=0.4)
            self.say(f"{path}.like", f"unknown profile {like!r:.60}; {self._hint(near, tuple(PROFILES))}")
            return None
        changes: dict[str, Any] = {"name": name}
        for key in TIMES:
            if key in row and (seconds := self.time(row[key], f"{path}.{key}")) is not None:
                changes[key] = seconds
        for key in COUNTS:
            if key in row and (count := self.count(row[key], f"{path}.{key}")) is not None:
                changes[key] = count
        if "kv_tokens" in changes and "max_model_len" not in changes:
            changes["max_model_len"] = min(found.max_model_len, changes["kv_tokens"] // 1024 * 1024 or 1)
        try:
            return dataclasses.replace(found, **changes)
        except ValueError as problem:
            self.say(path, str(problem))
            return None

    def members(self, value: Any, profiles: dict[str, Profile]) -> list[Member]:
        if not isinstance(value, list) or not value:
            self.say("backends", f"expected a list of machines, got {value!r:.60}")
            return []
        members: list[Member] = []
        for i, item in enumerate(value):
            path = f"backends[{i}]"
            row = self.table(item, path, ("profile", "count", "weight", "slowdown"))
            name = row.get("profile")
            found = profiles.get(name) if isinstance(name, str) else None
            if found is None:
                if isinstance(item, dict):
                    near = get_close_matches(str(name), profiles, n=1, cutoff=0.4)
                    self.say(f"{path}.profile", f"unknown profile {name!r:.60}; {self._hint(near, tuple(profiles))}")
                continue
            count = self.count(row.get("count", 1), f"{path}.count", MAX_BACKENDS) or 0
            weight = self.number(row["weight"], f"{path}.weight", 0.001, 1000.0) if "weight" in row else None
            slow = self.number(row.get("slowdown", 1.0), f"{path}.slowdown", 0.01, 1e6) or 1.0
            start = sum(m.profile.name == found.name for m in members)
            members += [Member(f"{found.name}-{start + k + 1}", found, weight, slow) for k in range(count)]
        return members

    def faults(self, value: Any) -> list[Fault]:
        if not isinstance(value, list):
            self.say("faults", f"expected a list such as [slow@60-160:h100-8b-1:4], got {value!r:.60}")
            return []
        found: list[Fault] = []
        for i, item in enumerate(value):
            try:
                found.append(parse_fault(str(item)))
            except FleetError as problem:
                self.say(f"faults[{i}]", str(problem))
        return found


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
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise FleetError(f"{path}: not YAML: {str(problem).splitlines()[0]}") from None
    reader = _Reader(path)
    whole = reader.table(document, "", ("profiles", "backends", "faults"))
    own = reader.table(whole.get("profiles", {}), "profiles", tuple(whole.get("profiles") or ()))
    made = {str(name): reader.profile(str(name), value) for name, value in own.items()}
    profiles = {**PROFILES, **{name: profile for name, profile in made.items() if profile is not None}}
    members = reader.members(whole.get("backends"), profiles)
    faults = reader.faults(whole.get("faults", []))
    fleet = Fleet(Path(path).name, tuple(members))
    if not reader.problems:
        try:
            return fleet.with_faults(tuple(faults))
        except FleetError as problem:
            reader.say("faults", str(problem))
    raise FleetError("\n".join(reader.problems))
