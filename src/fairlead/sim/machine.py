"""One simulated machine: its engine, what runs there, and whether it stands still or is gone."""

from __future__ import annotations

import dataclasses

from fairlead.core.cluster.ledger import Lease
from fairlead.emulator.engine import Engine
from fairlead.sim.fleet import Member


class Machine:
    """One engine and what happens to it."""

    __slots__ = ("_profile", "crashed", "engine", "frozen_at", "index", "name", "running", "slowdown", "version")

    def __init__(self, index: int, member: Member, block_tokens: int) -> None:
        self.index = index
        self.name = member.name
        self._profile = dataclasses.replace(member.profile, block_tokens=block_tokens)
        self.slowdown = member.slowdown  # of the machine itself
        self.engine = self.fresh()
        self.version = 0  # of its entry in the event heap
        self.crashed = False
        self.frozen_at: float | None = None
        self.running: dict[int, Lease] = {}  # by request index

    def fresh(self) -> Engine:
        """The machine as it is when it has just been started."""
        return Engine(self._profile, slowdown=self.slowdown)
