"""Made-up runs: outcomes as a simulation would leave them, without a simulation."""

from __future__ import annotations

from random import Random

from fairlead.sim.trace import FAILED, OK, REFUSED, Outcome, Request, Run, Sample, Trace

SAMPLES = 300


def trace_of(*requests: Request, name: str = "small") -> Trace:
    return Trace(name, requests)


def done(
    request: int,
    arrived: float,
    ttft: float | None = 0.1,
    e2e: float = 1.0,
    *,
    backend: str = "a",
    status: str = OK,
    tries: int = 1,
    cached: int = 0,
) -> Outcome:
    first = None if ttft is None else arrived + ttft
    return Outcome(request, arrived, backend, arrived, first, arrived + e2e, status, tries, cached)


def run_of(outcomes: list[Outcome], *, policy: str = "round_robin", seed: int = 1, reference: bool = False) -> Run:
    return Run("small", policy, "h100-8b:2", seed, ["a", "b"], ["h100-8b"] * 2, outcomes, reference=reference)


def made_up(
    policy: str,
    *,
    requests: int = 600,
    seed: int = 1,
    rate: float = 20.0,
    slow: float = 1.0,
    backends: int = 6,
    losses: float = 0.0,
    reference: bool = False,
    fleet: str = "h100-8b:4,l4-8b:2",
    name: str = "chat",
) -> tuple[Run, Trace]:
    """A run whose times are `slow` times as long as they might be; `losses`: share refused or failed."""
    rng = Random(f"{policy} {seed} {rate}")
    names = [f"gpu-{number}" for number in range(backends)]
    profiles = ["h100-8b" if number < backends * 2 / 3 else "l4-8b" for number in range(backends)]
    asked, outcomes, t = [], [], 0.0
    for index in range(requests):
        t += rng.expovariate(rate)
        prompt, output = max(int(rng.lognormvariate(6, 1)), 1), max(int(rng.lognormvariate(4.5, 1)), 1)
        asked.append(Request(t, prompt, output))
        ttft = 0.02 + prompt * 1e-4 * slow * rng.expovariate(1)
        e2e = ttft + output * 0.01 * slow * rng.uniform(0.8, 1.5)
        backend = rng.choices(names, [2.0 if profile == "h100-8b" else 1.0 for profile in profiles])[0]
        lost = rng.random() < losses
        outcomes.append(
            Outcome(
                index,
                t,
                backend,
                t,
                None if lost else t + ttft,
                t + e2e,
                rng.choice([FAILED, REFUSED]) if lost else OK,
                2 if rng.random() < 0.02 else 1,
                int(prompt * rng.random() * 0.9 / slow),
            )
        )
    samples, placed = [], dict.fromkeys(names, 0)
    for number in range(SAMPLES):
        at, before = t * (number + 1) / SAMPLES, t * number / SAMPLES
        for one in outcomes:
            if before <= one.arrived < at:
                placed[one.backend] += 1
        waiting = [int(rng.expovariate(0.3) * slow * (1 + number / 60)) for _ in names]
        samples.append(Sample(at, waiting, [8] * backends, list(placed.values()), [0.5] * backends))
    run = Run(name, policy, fleet, seed, names, profiles, outcomes, samples, t, 1.23, reference)
    return run, Trace(name, asked, notes=("Lengths are made up.",))
