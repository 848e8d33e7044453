"""How long does one decision take? Every policy, over 2 to 1,000 backends with requests in flight.

A decision here is what a request pays: candidates, estimate, look-up in the prefix index, policy, lease opened and
closed again, the prompt's blocks put on the shelf. Prompts have about 30,000 tokens (35 blocks); each shares its
first half with 31 others, which are spread over the fleet. Hashing the prompt is not part of it: see bench.hotpath.
Run: python -m bench.decision
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from bisect import bisect_left

from fairlead.core.balancer import ABANDONED, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind
from fairlead.core.policies.registry import POLICIES, make
from fairlead.wire.openai import BLOCK_ENDS

SIZES = (2, 8, 64, 1000)
BUDGET = {64: 100.0, 1000: 1000.0}  # microseconds


def measure(name: str, size: int, rounds: int = 5) -> float:
    """Median over `rounds` of the mean CPU microseconds per decision."""
    balancer = Balancer(make(name), random.Random(1))
    for i in range(size):
        balancer.add(f"backend-{i}", models=frozenset(("m",)))
        balancer.probe(f"backend-{i}", True)
    rng = random.Random(2)

    span = 120_000
    length = bisect_left(BLOCK_ENDS, span) + 1
    shared: list[list[int]] = [[rng.getrandbits(64) for _ in range(length // 2)] for _ in range(64)]

    def facts() -> Facts:
        blocks = rng.choice(shared) + [rng.getrandbits(64) for _ in range(length - length // 2)]
        return Facts(Kind.CHAT, "m", prompt_bytes=span, blocks=blocks, block_ends=BLOCK_ENDS, span=span)

    for _ in range(max(4 * size, 2048)):
        balancer.assign(facts(), 0.0)
    count = max(200, 4_000 // size)
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
