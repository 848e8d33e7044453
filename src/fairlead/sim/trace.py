"""What is asked of a simulated fleet, and what became of it: plain data that all parts of the simulator share.

Times are seconds, lengths are tokens. A trace is read (sim/readers/) or made (sim/workload.py); sim/host.py turns it
into a `Run`; sim/summary.py and the report look at runs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

NO_REQUEST: Final = -1

OK: Final = "ok"  # answered in full
REFUSED: Final = "refused"  # answered with 429 or 503: no place, or shed
FAILED: Final = "failed"  # a backend failed it and it could not be moved, or its stream broke
UNFINISHED: Final = "unfinished"  # still running when the simulation was stopped


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    at: float  # arrival after the trace's start; with `after`: pause between the end of that request and this arrival
    prompt: int  # tokens, at least 1
    output: int  # tokens that the model will say; 0: only the prompt is processed
    blocks: Sequence[int] = ()  # chained hashes of the prompt's full blocks of `Trace.block_tokens` tokens
    after: int = NO_REQUEST  # index of the request that has to end first (the turn before, the same client's last one)
    tenant: str = ""
    session: str = ""
    model: str = ""  # "": the fleet's only one
    max_tokens: int | None = None  # the client's own limit, if it set one
    output_blocks: Sequence[int] = ()  # hashes of the full blocks that the answer fills, chained on: the next turn's


@dataclass(frozen=True, slots=True)
class Measured:
    """What a recording says about one of its requests."""

    backend: str
    ttft: float | None  # arrival to the first byte of a streamed answer
    duration: float  # arrival to the last byte
    cached: int | None  # prompt tokens that the engine found in its cache
    status: str = OK  # as above


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their `at` (those with `after` stand behind the request they wait for)."""

    name: str
    requests: Sequence[Request]
    block_tokens: int = 16  # tokens per block of `Request.blocks`
    notes: Sequence[str] = ()  # what was done to it, in sentences: shown with every result
    measured: Sequence[Measured] = ()  # one per request, for recordings; else empty

    @property
    def seconds(self) -> float:
        """From the first to the last arrival that the trace itself times."""
        timed = [r.at for r in self.requests if r.after == NO_REQUEST]
        return max(timed) - min(timed) if timed else 0.0


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times are simulated seconds since the start of the run."""

    request: int  # index in the trace
    arrived: float
    backend: str = ""  # the last one that it was sent to
    sent: float = 0.0  # when it was sent there
    first: float | None = None  # its first token
    ended: float = 0.0
    status: str = UNFINISHED
    tries: int = 0
    cached: int = 0  # prompt tokens that the engine found in its cache
    expected_cached: int = 0  # what the balancer thought

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.arrived

    @property
    def e2e(self) -> float:
        return self.ended - self.arrived

    def tpot(self, output: int) -> float | None:
        """Seconds per output token after the first; None where there is at most one."""
        return None if self.first is None or output < 2 else (self.ended - self.first) / (output - 1)


@dataclass(slots=True)
class Sample:
    """The fleet at one moment; the lists line up with `Run.backends`."""

    at: float
    waiting: list[int]  # requests in the engine's queue
    running: list[int]
    placed: list[int]  # requests sent there since the start
    kv_usage: list[float]  # 0..1
    held: int = 0  # requests held back by the balancer


@dataclass(slots=True)
class Run:
    """One policy over one fleet with one seed."""

    trace: str
    policy: str
    fleet: str  # as people write it: "h100-8b:4,l4-8b:2"
    seed: int
    backends: list[str]  # every one that was ever there
    profiles: list[str]  # of these backends
    outcomes: list[Outcome] = field(default_factory=list)  # one per request, in the trace's order
    samples: list[Sample] = field(default_factory=list)  # at even distances, at most a few hundred
    simulated_seconds: float = 0.0
    wall_seconds: float = 0.0  # never part of deterministic output
    reference: bool = False  # a rival's rule, not one of Fairlead's policies
    preemptions: int = 0
    notes: list[str] = field(default_factory=list)
