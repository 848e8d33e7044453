"""What if? Another policy, one backend more, one less: answered for the traffic of a recording.

First the trust is earned: engine models are calibrated on the first part of the recording, the whole is replayed as it
was, and what comes out for the last part, which the calibration has not seen, is held against what was measured. Then
the same traffic is run under other policies and on other fleets. All differences are against the replay, not against
the measurement, so that an error of the model that is the same on both sides cancels out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairlead.sim.calibrate import Fit, calibrate, fleet_of, replay, usable
from fairlead.sim.host import Simulation
from fairlead.sim.runs import make_policy
from fairlead.sim.summary import Times
from fairlead.sim.trace import Outcome, Run, Trace

FEWEST: Final = 50  # requests
LEARN: Final = 0.6  # share of the recording that the calibration sees
GOOD, FAIR = 0.10, 0.25  # errors of the held-out means up to which an answer deserves that word
POLICIES: Final = ("expected_completion", "least_pending_tokens", "least_connections", "round_robin")
UNKNOWN: Final = (
    "A recording cannot know: other traffic on the engines, requests that never arrived, and how people would have "
    "reacted to other answer times (arrivals are replayed as they came)."
)


class WhatIfError(ValueError):
    """A trace that cannot be calibrated on; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure, measured and simulated, over the part that the calibration did not see."""

    name: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1.0 if self.measured else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: means over the seeds; differences are to the replay."""

    label: str
    ttft_mean: float
    ttft_p99: float
    e2e_mean: float
    e2e_p99: float
    hit_ratio: float
    ttft_change: float
    e2e_change: float
    spread: float  # largest less smallest change of the mean whole-answer time over the seeds


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer and what it deserves."""

    requests: int
    held_out: int
    fits: tuple[Fit, ...]
    checks: tuple[Check, ...]
    answers: tuple[Answer, ...]
    policy: str  # under which one more and one less were asked

    @property
    def trust(self) -> str:
        """good, fair or poor, by the worse of the two held-out means."""
        worst = max(abs(c.error) for c in self.checks if c.name.endswith("mean"))
        return "good" if worst < GOOD else "fair" if worst < FAIR else "poor"

    def show(self, console: Console) -> None:
        """Tables for people."""
        machines = Table(
            title=f"Calibrated on {self.requests - self.held_out} requests", box=None, title_justify="left"
        )
        for heading in ("backend", "prefill", "decode step", "KV cache", "requests"):
            machines.add_column(heading, justify="left" if heading == "backend" else "right")
        for fit in self.fits:
            profile = fit.profile()
            machines.add_row(
                escape(fit.backend), f"{1 / profile.prefill:,.0f} tok/s", f"{profile.base * 1e3:.1f} ms",
                f"{profile.kv_tokens:,} tokens", f"{fit.requests:,}",
            )  # fmt: skip
        console.print(machines)
        checks = Table(
            title=f"\nThe other {self.held_out} requests, replayed as they went", box=None, title_justify="left"
        )
        for heading in ("", "measured", "simulated", "error"):
            checks.add_column(heading, justify="right" if heading else "left")
        for c in self.checks:
            unit = _ratio if "ratio" in c.name else _time
            checks.add_row(c.name, unit(c.measured), unit(c.simulated), f"{c.error:+.1%}")
        console.print(checks)
        console.print(f"\nTrust: [bold]{self.trust}[/]. {MEANING[self.trust]}")
        rows = Table(title="\nWhat if", box=None, title_justify="left")
        for heading in ("", "TTFT mean", "E2E mean", "E2E p99", "hits", "TTFT", "E2E"):
            rows.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
        for a in self.answers:
            change = "" if a.label == AS_IT_WAS else f"{a.e2e_change:+.1%} ±{a.spread / 2:.1%}"
            rows.add_row(
                escape(a.label), _time(a.ttft_mean), _time(a.e2e_mean), _time(a.e2e_p99), _ratio(a.hit_ratio),
                "" if a.label == AS_IT_WAS else f"{a.ttft_change:+.1%}", change,
            )  # fmt: skip
        console.print(rows)
        console.print(
            f"\nOne more and one less are under {escape(self.policy)}; changes are against the replay. {UNKNOWN}"
        )

    def to_json(self) -> bytes:
        """The same for programs; same input, same bytes."""
        whole: dict[str, Any] = dataclasses.asdict(self)
        whole["schema"] = "fairlead.what-if/1"
        whole["trust"] = self.trust
        for row, check in zip(whole["checks"], self.checks, strict=True):
            row["error"] = check.error
        return json.dumps(whole, sort_keys=True, indent=1).encode()


AS_IT_WAS: Final = "as it was"
MEANING: Final = {
    "good": "The replay meets what was measured within 10 %: read differences of more than that as real.",
    "fair": "The replay is off by 10 to 25 %: trust the order of the rows, not small differences.",
    "poor": "The replay is off by more than 25 %: something that the model does not know decides here; take no advice.",
}


def run_what_if(
    trace: Trace,
    *,
    policies: Sequence[str] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    progress: Callable[[str], None] | None = None,
) -> WhatIf:
    """Calibrate, check, answer. WhatIfError for a trace without enough measurements, PolicyError for a policy."""
    tell = progress or (lambda text: None)
    for name in policies or ():
        make_policy(name)
    if not trace.measured:
        raise WhatIfError(
            f"{trace.name}: holds no measurements: what-if needs a recording of `fairlead serve --record`, "
            "or a JSON access log"
        )
    whole = usable(trace)
    count = len(whole.requests)
    if count < FEWEST:
        raise WhatIfError(f"{trace.name}: {count} answered requests are too few to calibrate on: {FEWEST} are needed")
    cut = int(count * LEARN)
    tell(f"calibrating on {cut} of {count} requests")
    fits = calibrate(whole, cut)
    tell("replaying it as it was")
    base = replay(whole, fits)
    checks = _checks(whole, base, cut)
    answers = [_answer(AS_IT_WAS, [base], whole, base)]

    def ask(label: str, policy: str, machines: Sequence[Fit]) -> None:
        tell(label)
        runs = [Simulation(whole, fleet_of(machines, label), make_policy(policy)[0], seed=seed).run() for seed in seeds]
        answers.append(_answer(label, runs, whole, base))

    for name in policies or POLICIES:
        ask(name, name, fits)
    best = (policies or POLICIES)[0]
    for kind in _kinds(fits):
        ask(
            f"one more like {kind.backend}",
            best,
            [*fits, dataclasses.replace(kind, backend=f"{kind.backend}+")],
        )
    if len(fits) > 1:
        for kind in _kinds(fits):
            ask(f"without {kind.backend}", best, [fit for fit in fits if fit is not kind])
    return WhatIf(count, count - cut, tuple(fits), checks, tuple(answers), best)


def _kinds(fits: Sequence[Fit]) -> list[Fit]:
    """One of each kind of machine."""
    kinds: list[Fit] = []
    for fit in fits:
        if not any(fit.alike(kind) for kind in kinds):
            kinds.append(fit)
    return kinds


def _checks(trace: Trace, run: Run, cut: int) -> tuple[Check, ...]:
    pairs = list(zip(trace.measured, run.outcomes, trace.requests, strict=True))[cut:]
    streamed = [(m.ttft, o.ttft) for m, o, _ in pairs if m.ttft is not None and o.ttft is not None]
    ended = [(m.duration, o.e2e) for m, o, _ in pairs if o.first is not None]
    checks: list[Check] = []
    for name, values in (("TTFT", streamed), ("E2E", ended)):
        if not values:
            continue
        real, simulated = Times.of([a for a, _ in values]), Times.of([b for _, b in values])
        for part in ("mean", "p50", "p90", "p99"):
            checks.append(Check(f"{name} {part}", getattr(real, part) or 0.0, getattr(simulated, part) or 0.0))
    told = [(m.cached, o.cached, r.prompt) for m, o, r in pairs if m.cached is not None]
    if told and sum(p for _, _, p in told):
        prompts = sum(p for _, _, p in told)
        checks.append(Check("hit ratio", sum(c for c, _, _ in told) / prompts, sum(c for _, c, _ in told) / prompts))
    return tuple(checks)


def _figures(outcomes: Sequence[Outcome], trace: Trace) -> tuple[Times, Times, float]:
    well = [o for o in outcomes if o.ttft is not None and o.status == "ok"]
    prompts = sum(trace.requests[o.request].prompt for o in well)
    hits = sum(o.cached for o in well) / prompts if prompts else 0.0
    return Times.of([o.ttft for o in well if o.ttft is not None]), Times.of([o.e2e for o in well]), hits


def _answer(label: str, runs: Sequence[Run], trace: Trace, base: Run) -> Answer:
    before_first, before_whole, _ = _figures(base.outcomes, trace)
    rows = [_figures(run.outcomes, trace) for run in runs]

    def mean(values: Sequence[float | None]) -> float:
        return sum(v or 0.0 for v in values) / len(values)

    changes = [_change(e2e.mean, before_whole.mean) for _, e2e, _ in rows]
    return Answer(
        label,
        mean([t.mean for t, _, _ in rows]),
        mean([t.p99 for t, _, _ in rows]),
        mean([e.mean for _, e, _ in rows]),
        mean([e.p99 for _, e, _ in rows]),
        mean([h for _, _, h in rows]),
        mean([_change(t.mean, before_first.mean) for t, _, _ in rows]),
        mean(changes),
        max(changes) - min(changes),
    )


def _change(value: float | None, before: float | None) -> float:
    return value / before - 1.0 if value is not None and before else 0.0


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _ratio(share: float) -> str:
    return f"{share:.1%}"
