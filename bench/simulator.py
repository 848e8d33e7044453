"""How fast is simulated time? The first 6,000 requests of the Mooncake conversation trace on 16 instances, one core.

Run: python -m bench.simulator (needs ../shared/traces; without it, a made-up workload of the same size)
"""

from __future__ import annotations

import statistics
import time

from bench.policies.experiments import CONVERSATION, H70, TRACES, conversation, made
from fairlead.core.policies.registry import POLICIES, make
from fairlead.sim.fleet import parse_fleet
from fairlead.sim.host import Simulation

GOAL = 20.0  # seconds


def main() -> None:
    there = (TRACES / CONVERSATION).is_file()
    trace = conversation(1) if there else made(1, "chat:rate=4,seconds=1500,block_tokens=64")
    print(
        f"{trace.name}: {len(trace.requests):,} requests over {trace.seconds:,.0f} s, 16 instances of {H70}, one core"
    )
    print("| policy | CPU seconds | requests/s | simulated s per s |")
    print("|---|---|---|---|")
    for name in POLICIES:
        used = []
        simulated = 0.0
        for _ in range(3):
            begun = time.process_time()
            simulated = Simulation(trace, parse_fleet(f"{H70}:16"), make(name)).run().simulated_seconds
            used.append(time.process_time() - begun)
        seconds = statistics.median(used)
        late = "" if seconds < GOAL else " (goal missed: 20 s)"
        print(f"| `{name}` | {seconds:.2f}{late} | {len(trace.requests) / seconds:,.0f} | {simulated / seconds:,.0f} |")


if __name__ == "__main__":
    main()
