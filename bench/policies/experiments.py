"""The experiments: which traffic, which machines, which rules, and what is turned about.

An arm is one row of a table: a policy, the world it runs in, and (for ablations) values of our own modules that are
set for the time of the run. Traces come from `../shared/traces` where that folder is there; experiments on them are
left out, and named, where it is not. The rest is made by the workload generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fairlead.core.policies.registry import POLICIES
from fairlead.core.view import Policy
from fairlead.sim.fleet import Fleet, Member, parse_fault, parse_fleet
from fairlead.sim.host import Settings
from fairlead.sim.readers import read_trace
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.trace import Trace
from fairlead.sim.workload import generate, parse_workload

TRACES: Final = Path(__file__).parents[3] / "shared" / "traces"
CONVERSATION: Final = "mooncake_conversation_first6000.jsonl.gz"
AZURE: Final = "azure_2023_conv_first10000.csv.gz"

OWN: Final = "expected_completion"
STRONG: Final = ("lmetric", "lpwl", "dynamo_32", "llmd_211", "sglang_cache_aware")
ALL: Final = (*STRONG, "dynamo", "vllm_dp", "chwbl_second", "least_resident_tokens")
PLAIN: Final = ("least_pending_tokens", "least_connections", "round_robin")

World = tuple[str, tuple[Any, ...]]  # a key of SOURCES and its arguments: cheap to send to another process


@dataclass(frozen=True)
class Arm:
    """One row."""

    label: str
    policy: str
    options: tuple[tuple[str, Any], ...] = ()
    settings: Settings | None = None
    patches: tuple[tuple[str, str, Any], ...] = ()  # (module, name, value)

    def make(self) -> Policy:
        rule = POLICIES.get(self.policy) or RIVALS[self.policy]
        return rule(**dict(self.options))

    @property
    def reference(self) -> bool:
        return self.policy in RIVALS


@dataclass(frozen=True)
class Case:
    """One table: every arm on the same traffic and machines."""

    title: str
    world: World
    fleet: str
    arms: tuple[Arm, ...]
    faults: tuple[str, ...] = ()
    kv_share: float = 1.0  # of the engines' KV cache
    slo: tuple[float, float] = (5.0, 0.1)


@dataclass(frozen=True)
class Experiment:
    """Cases that answer one question."""

    number: str
    question: str
    cases: tuple[Case, ...]
    needs: str = ""  # a file of TRACES
    notes: tuple[str, ...] = field(default=())


def arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm(name, name) for name in names)


def dial(*values: float) -> tuple[Arm, ...]:
    return tuple(Arm(f"{OWN} at {value:g}", OWN, (("throughput", value),)) for value in values)


def conversation(seed: int, spread: str = "random") -> Trace:
    return read_trace(str(TRACES / CONVERSATION), seed=seed, spread=spread)


def azure(seed: int, speedup: float) -> Trace:
    return read_trace(str(TRACES / AZURE), seed=seed, speedup=speedup)


def made(seed: int, spec: str) -> Trace:
    return generate(parse_workload(spec), seed)


SOURCES: Final[dict[str, Callable[..., Trace]]] = {"conversation": conversation, "azure": azure, "made": made}


def trace_of(world: World, seed: int) -> Trace:
    name, arguments = world
    return SOURCES[name](seed, *arguments)


def fleet_of(case: Case) -> Fleet:
    fleet = parse_fleet(case.fleet)
    if case.kv_share != 1.0:
        members = tuple(
            Member(m.name, dataclasses.replace(m.profile, kv_tokens=kv, max_model_len=min(kv, m.profile.max_model_len)))
            for m in fleet.members
            for kv in (int(m.profile.kv_tokens * case.kv_share) // 1024 * 1024,)
        )
        fleet = Fleet(fleet.text, members)
    return fleet.with_faults(tuple(parse_fault(text) for text in case.faults))


CHAT: Final[World] = ("conversation", ())
H70: Final = "h100-70b-tp4"

POLICY: Final = "fairlead.core.policies.expected_completion"
SPEEDS: Final = "fairlead.core.cluster.speeds"
COSTS: Final = tuple(
    (module, name)
    for module in ("fairlead.core.cluster.costs", POLICY, SPEEDS)
    for name in ("BASE", "TOKEN", "ATTENTION", "KV", "SEQ")
)


def _ablations() -> tuple[Arm, ...]:
    def without(label: str, *patches: tuple[str, str, Any]) -> Arm:
        return Arm(label, OWN, patches=patches)

    return (
        Arm(OWN, OWN),
        Arm("first token only (dial 0)", OWN, (("throughput", 0.0),)),
        without("no stall of running streams", (POLICY, "STALL_CAP", 0.0)),
        without("no head credit", (POLICY, "CREDIT", 0.0)),
        without("speeds not learned", (SPEEDS, "PRIOR_REQUESTS", 1e9)),
        without("speeds not shrunk", (SPEEDS, "PRIOR_REQUESTS", 1e-3), (SPEEDS, "DOUBT", 1.0)),
        without("nothing overdue", (SPEEDS, "OVERDUE", 1e9)),
        without("no change detection", ("fairlead.core.cluster.speed", "CHANGED", 1e9)),
        without("attention free", (POLICY, "ATTENTION", 0.0), ("fairlead.core.cluster.costs", "ATTENTION", 0.0)),
        without("prefill 3x too dear", (POLICY, "TOKEN", 60e-6), ("fairlead.core.cluster.costs", "TOKEN", 60e-6)),
        without(
            "prefill 3x too cheap", (POLICY, "TOKEN", 20e-6 / 3), ("fairlead.core.cluster.costs", "TOKEN", 20e-6 / 3)
        ),
        without(
            "no prefix index",
            ("fairlead.core.cluster.cache", "LEAST", 1 << 60),
            ("fairlead.core.cluster.prefix", "MAX_BLOCKS", 0),
        ),
    )


def experiments() -> Sequence[Experiment]:
    """All of them, in the order of the tables."""
    mixed_8b = "h100-8b:2,a100-8b:4,l4-8b:8"
    return (
        Experiment(
            "1", "Conversation trace, Llama-70B on H100 (TP4): fleets of 5 (overload) to 16 instances",
            tuple(
                Case(f"{n} instances", CHAT, f"{H70}:{n}", arms(OWN, *(ALL if n == 8 else STRONG), *PLAIN))
                for n in (5, 6, 8, 12, 16)
            ),
            needs=CONVERSATION,
        ),
        Experiment(
            "1b", "The same with raw timestamps: bursts of ten requests every three seconds",
            (Case("8 instances, raw", ("conversation", ("none",)), f"{H70}:8", arms(OWN, *STRONG, *PLAIN[1:2])),),
            needs=CONVERSATION,
        ),
        Experiment(
            "2", "Agents: growing contexts, short answers, tool pauses (instead of Mooncake synthetic, not at hand)",
            (
                Case("4 instances", ("made", ("agents",)), "h100-8b:4", arms(OWN, *STRONG, *PLAIN)),
                Case("2 instances", ("made", ("agents",)), "h100-8b:2", arms(OWN, *STRONG)),
            ),
        ),
        Experiment(
            "6", "Conversations in a closed loop (KubeAI's scenario): 8 L4",
            tuple(
                Case(f"{c} clients", ("made", (f"closed_chat:clients={c},requests={8 * c}",)), "l4-8b:8",
                     arms(OWN, *STRONG, "chwbl", "least_connections", "round_robin"))
                for c in (50, 200)
            ),
        ),
        Experiment(
            "7", "Azure conversation, no shared prefixes, 4 A100: rate and dial",
            tuple(
                Case(f"rate x{f:g}", ("azure", (f,)), "a100-8b:4",
                     (*arms(OWN), *dial(0.0, 0.3, 0.7, 1.0), *arms("lmetric", "lpwl", "least_connections")))
                for f in (2.0, 4.0, 5.0)
            ),
            needs=AZURE,
        ),
        Experiment(
            "8", "Unequal machines, no configured weights",
            (
                Case("4 H100 + 4 A100, 70B", CHAT, f"{H70}:4,a100-70b-tp4:4", arms(OWN, *STRONG, *PLAIN)),
                Case("2 H100 + 4 A100 + 8 L4, 8B", ("made", ("chat:rate=40,seconds=300",)), mixed_8b,
                     arms(OWN, *STRONG, *PLAIN)),
            ),
            needs=CONVERSATION,
        ),
        Experiment(
            "9", "One of eight is 2x, 4x, 20x slower, or stands still, from 500 s to 1100 s",
            tuple(
                Case(label, CHAT, f"{H70}:8", arms(OWN, *STRONG[:3], "least_connections"), faults=faults)
                for label, faults in (
                    ("healthy", ()),
                    *((f"{f}x slower", (f"slow@500-1100:{H70}-1:{f}",)) for f in (2, 4, 20)),
                    ("frozen", (f"freeze@500-1100:{H70}-1",)),
                )
            ),
            needs=CONVERSATION,
        ),
        Experiment(
            "10", "One hot prefix, in a tenth, half or nine tenths of the requests; and one that moves every minute",
            tuple(
                Case(spec, ("made", (spec,)), "h100-8b:4", arms(OWN, *STRONG, "prefix_hash"))
                for spec in (*(f"hot_prefix:rate=24,share={share}%" for share in (10, 50, 90)),
                             "hot_prefix:rate=24,share=50%,move=60")
            ),
        ),
        Experiment(
            "11", "Long-prompt outliers: 0.1, 1 and 5 % of requests with 120k unique tokens",
            tuple(
                Case(spec, ("made", (spec,)), "h100-8b:4", arms(OWN, *STRONG[:4], "least_connections"))
                for spec in ("outliers:rate=12,share=0.1%", "outliers:rate=12,share=1%", "outliers:rate=12,share=5%")
            ),
        ),
        Experiment(
            "12", "Age of scraped metrics",
            (
                Case("8 instances", CHAT, f"{H70}:8",
                     tuple(Arm(f"{name}, {label}", name, settings=Settings(scrape=seconds))
                           for name in (OWN, "llmd_211", "vllm_dp", "least_waiting")
                           for label, seconds in (("50 ms", 0.05), ("1 s", 1.0), ("5 s", 5.0), ("never", 0.0)))),
            ),
            needs=CONVERSATION,
        ),
        Experiment(
            "14", "A quarter of the KV cache; and an index that is not bounded by it",
            (
                Case("8 instances, KV cache x1/4", CHAT, f"{H70}:8", (
                    Arm(OWN, OWN),
                    Arm("index unbounded, corrected by cached_tokens", OWN,
                        patches=(("fairlead.core.cluster.cache", "CAPACITY_SHARE", 1e3),)),
                    Arm("index unbounded, not corrected", OWN, settings=Settings(cached_tokens=False),
                        patches=(("fairlead.core.cluster.cache", "CAPACITY_SHARE", 1e3),
                                 ("fairlead.core.cluster.cache", "COUNTER_TOKENS", 1 << 60))),
                    Arm("index x2, corrected", OWN, patches=(("fairlead.core.cluster.cache", "CAPACITY_SHARE", 2.0),)),
                    *arms(*STRONG[:3]),
                ), kv_share=0.25),
            ),
            needs=CONVERSATION,
        ),
        Experiment(
            "15", "Four machines join at 400 s with cold caches and leave at 1200 s",
            (
                Case("4 -> 8 -> 4, 8B", ("made", ("chat:rate=30,seconds=1600,turns=3",)), "h100-8b:8",
                     arms(OWN, *STRONG[:3], "least_connections"),
                     faults=tuple(f"{kind}@{at}:h100-8b-{i}" for i in (5, 6, 7, 8)
                                  for kind, at in (("join", 400), ("leave", 1200)))),
            ),
        ),
        Experiment(
            "17", "Ablations: what each part of the default earns",
            (
                Case("conversation, 8 instances", CHAT, f"{H70}:8", _ablations()),
                Case("4 H100 + 4 A100", CHAT, f"{H70}:4,a100-70b-tp4:4", _ablations()),
                Case("one of eight 4x slower", CHAT, f"{H70}:8", _ablations(), faults=(f"slow@500-1100:{H70}-1:4",)),
            ),
            needs=CONVERSATION,
        ),
    )  # fmt: skip
