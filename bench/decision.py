"""How long does one decision take? Every policy, over 8, 64 and 1,000 backends with requests in flight.

A decision here is what a request pays: candidates, estimate, policy, lease opened and closed again.
Run: python -m bench.decision
"""

from __future__ import annotations

import random
import statistics
import sys
import time

from fairlead.core.balancer import ABANDONED, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind
from fairlead.core.policies.registry import POLICIES, make

SIZES = (2, 8, 64, 1000)
BUDGET = {64: 100.0, 1000: 1000.0}  # microseconds


def measure(name: str, size: int, rounds: int = 5) -> float:
    """Median over `rounds` of the mean CPU microseconds per decision."""
    balancer = Balancer(make(name), random.Random(1))
    for i in range(size):
        balancer.add(f"backend-{i}", models=frozenset(("m",)))
        balancer.probe(f"backend-{i}", True)
    rng = random.Random(2)

    def facts() -> Facts:
        prefixes = tuple(rng.getrandbits(64) for _ in range(5))
        return Facts(kind=Kind.CHAT, model="m", prompt_bytes=rng.randrange(100, 40_000), prefixes=prefixes)

    for _ in range(4 * size):
        balancer.assign(facts(), 0.0)
    count = max(200, 20_000 // size)
    batch = [facts() for _ in range(count)]
    means = []
    for _ in range(rounds):
        start = time.process_time()
        for f in batch:
            lease = balancer.assign(f, 1.0)
            assert isinstance(lease, Lease)
            balancer.finish(lease, ABANDONED, 1.0)
        means.append((time.process_time() - start) / count * 1e6)
    return statistics.median(means)


def main() -> None:
    print("CPU microseconds per decision (budget: 64 backends 100, 1,000 backends 1,000)")
    print("| policy | " + " | ".join(f"{n:,}" for n in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    over = False
    for name in POLICIES:
        row = [measure(name, size) for size in SIZES]
        over = over or any(us > BUDGET.get(n, us) for n, us in zip(SIZES, row, strict=True))
        print(f"| `{name}` | " + " | ".join(f"{us:.1f}" for us in row) + " |")
    print("over budget" if over else "all within the budget", file=sys.stderr)


if __name__ == "__main__":
    main()
