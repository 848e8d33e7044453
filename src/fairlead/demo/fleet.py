"""Which engines does the demo emulate? Four of unequal speed; nobody tells Fairlead so.

Names are fixed because consistent hashing goes by them: with the ports as names every run would place prefixes anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fairlead.demo.workload import MODEL


@dataclass(frozen=True, slots=True)
class Machine:
    """One emulated engine."""

    name: str
    profile: str
    slow: float = 1.0  # steps take this many times as long as the profile says

    @property
    def shown(self) -> str:
        return self.profile if self.slow == 1.0 else f"{self.profile}, {self.slow:g}x slow"


FLEET: Final = (
    Machine("h100-1", "h100-8b"),
    Machine("h100-2", "h100-8b"),
    Machine("a100-1", "a100-8b"),
    Machine("a100-2", "a100-8b", slow=2.0),  # as one that is too hot, or shared with another job
)
SLOWEST: Final = "a100-2"


def engine_options(seed: int) -> dict[str, Any]:
    """For the child that emulates them."""
    return {"engines": [{"profile": m.profile, "slow": m.slow} for m in FLEET], "model": MODEL, "seed": seed}


def balancer_options(urls: list[str], policy: str, seed: int) -> dict[str, Any]:
    """For the child that balances: defaults, but for quiet logs and ports of the system's choice."""
    backends = [{"url": url, "name": machine.name} for url, machine in zip(urls, FLEET, strict=True)]
    config = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "policy": policy,
        "access_log": False,
        "backends": backends,
    }
    return {"config": config, "seed": seed}
