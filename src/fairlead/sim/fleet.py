"""Which machines does a simulation have, and what happens to them? Fleets and faults over time, as people write them.

    h100-8b:4,l4-8b:2                 four of one profile and two of another
    h100-8b:3 with `slow=...` faults  see `parse_fault`: KIND@START-END:BACKEND[:FACTOR], times in seconds

A YAML file gives own coefficients (sim/fleet_file.py). Backends are named after their profile and a running number.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from fairlead.emulator.profiles import PROFILES, Profile, UnknownProfile, profile

MAX_BACKENDS: Final = 10_000

SLOW: Final = "slow"  # every step takes `factor` times as long
FREEZE: Final = "freeze"  # no step ends; connections stay open
CRASH: Final = "crash"  # what runs there is lost, connections are refused; comes back with an empty cache
JOIN: Final = "join"  # it is not there before `at`
LEAVE: Final = "leave"  # it drains at `at` and goes
RESET: Final = "reset"  # it forgets its prefix cache, as after a deploy of weights
FAULTS: Final = (SLOW, FREEZE, CRASH, JOIN, LEAVE, RESET)
LASTING: Final = (SLOW, FREEZE, CRASH)  # kinds that can end; the others happen at a moment


class FleetError(ValueError):
    """A fleet or fault that cannot be meant; the message says what was wrong and what to write."""


@dataclass(frozen=True, slots=True)
class Member:
    """One engine instance."""

    name: str
    profile: Profile
    weight: float | None = None
    slowdown: float = 1.0  # of the machine itself, from the beginning


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to one backend. Times are seconds since the start of the run."""

    kind: str
    backend: str
    at: float
    until: float = math.inf
    factor: float = 4.0  # for `slow`


@dataclass(frozen=True, slots=True)
class Fleet:
    """The machines and their fate."""

    text: str  # as people wrote it
    members: tuple[Member, ...]
    faults: tuple[Fault, ...] = field(default=())

    def with_faults(self, faults: tuple[Fault, ...]) -> Fleet:
        """The same machines with other fates; FleetError for a fault of a backend that is not there."""
        names = {m.name for m in self.members}
        for fault in faults:
            if fault.backend not in names:
                near = difflib.get_close_matches(fault.backend, names, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(names))}"
                raise FleetError(f"fault {fault.kind}: no backend {fault.backend!r} in the fleet; {hint}")
        return Fleet(self.text, self.members, self.faults + faults)

    def for_blocks(self, block_tokens: int) -> Fleet:
        """The same machines with KV blocks of a trace's size; FleetError where a cache is smaller than one block."""
        fitted = {}
        for kind in dict.fromkeys(m.profile for m in self.members):  # in order: which one is complained of first
            held = kind.kv_tokens // block_tokens * block_tokens
            if not held:
                raise FleetError(
                    f"fleet {self.text!r}: the KV cache of {kind.name!r} ({kind.kv_tokens} tokens) is smaller than one "
                    f"block of the trace ({block_tokens} tokens)"
                )
            longest = min(kind.max_model_len, held)  # whole blocks only
            fitted[kind] = replace(kind, block_tokens=block_tokens, max_model_len=longest)
        return replace(self, members=tuple(replace(m, profile=fitted[m.profile]) for m in self.members))


def parse_fleet(text: str, profiles: dict[str, Profile] | None = None) -> Fleet:
    """`PROFILE:COUNT,...`; FleetError says what is wrong. `profiles` are offered beside the built-in ones."""
    own = profiles or {}
    members: list[Member] = []
    for part in text.split(","):
        name, _, count_text = part.strip().partition(":")
        name = name.strip()
        if not name:
            raise FleetError(f"fleet {text!r}: an empty part; write PROFILE:COUNT,... like h100-8b:4,l4-8b:2")
        count_text = count_text.strip() or "1"
        if not (count_text.isascii() and count_text.isdecimal() and 0 < int(count_text[:9]) <= MAX_BACKENDS):
            raise FleetError(f"fleet {text!r}: {count_text!r} is no number of machines (1 to {MAX_BACKENDS})")
        found = own.get(name)
        if found is None:
            try:
                found = profile(name)
            except UnknownProfile:
                near = difflib.get_close_matches(name, [*own, *PROFILES], n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join([*own, *PROFILES])}"
                raise FleetError(f"fleet {text!r}: unknown profile {name!r}; {hint}") from None
        start = sum(m.profile.name == found.name for m in members)
        members += [Member(f"{found.name}-{start + i + 1}", found) for i in range(int(count_text))]
    if len(members) > MAX_BACKENDS:
        raise FleetError(f"fleet {text!r}: more than {MAX_BACKENDS} machines")
    return Fleet(text.strip(), tuple(members))


_FAULT = re.compile(r"([a-z]+)@([0-9.]+)(?:-([0-9.]+))?:([^:]+)(?::([0-9.]+))?")


def parse_fault(text: str) -> Fault:
    """`KIND@START[-END]:BACKEND[:FACTOR]`, such as slow@60-160:h100-8b-1:4; FleetError says what is wrong."""
    usage = f"write KIND@START[-END]:BACKEND[:FACTOR], such as slow@60-160:h100-8b-1:4; kinds: {', '.join(FAULTS)}"
    match = _FAULT.fullmatch(text.strip())
    if match is None:
        raise FleetError(f"fault {text!r}: {usage}")
    kind, start, end, backend, factor = match.groups()
    if kind not in FAULTS:
        near = difflib.get_close_matches(kind, FAULTS, n=1, cutoff=0.5)
        raise FleetError(f"fault {text!r}: unknown kind {kind!r}; " + (f"did you mean {near[0]!r}?" if near else usage))
    try:
        at, until = float(start), float(end) if end else math.inf
        by = float(factor) if factor else 4.0
    except ValueError:
        raise FleetError(f"fault {text!r}: {usage}") from None
    if end and kind not in LASTING:
        raise FleetError(f"fault {text!r}: {kind} happens at a moment and has no end; {usage}")
    if factor and kind != SLOW:
        raise FleetError(f"fault {text!r}: {kind} has no factor; {usage}")
    if until <= at:
        raise FleetError(f"fault {text!r}: it ends before it begins")
    if not 0.01 <= by <= 1e6:
        raise FleetError(f"fault {text!r}: the factor must be between 0.01 and 1000000")
    return Fault(kind, backend, at, until, by)


def check_faults(faults: Iterable[Fault]) -> None:
    """FleetError where two faults of one backend cannot both be meant."""
    same: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        same.setdefault((fault.kind, fault.backend), []).append(fault)
    for (kind, backend), found in same.items():
        if kind == JOIN and len(found) > 1:
            raise FleetError(f"fault {kind}: {backend} joins {len(found)} times; a machine joins once")
        if kind == LEAVE and any(leaves.at <= joins.at for leaves in found for joins in same.get((JOIN, backend), ())):
            raise FleetError(f"fault {kind}: {backend} leaves before it joins; a machine that has left stays away")
        if kind in LASTING:
            for one, other in pairwise(sorted(found, key=lambda fault: fault.at)):
                if other.at < one.until:
                    raise FleetError(
                        f"fault {kind}: {backend} has one from {one.at:g} s to {one.until:g} s and another from "
                        f"{other.at:g} s; they must not overlap"
                    )
