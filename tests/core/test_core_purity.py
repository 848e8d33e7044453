"""Same events, same decisions: the brain has no clock, no chance and no memory of its own beyond what it was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from core_fleet import chat, fleet, join

from fairlead.core.balancer import CLIENT_GONE, FAILED, OK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Usage
from fairlead.core.policies.registry import POLICIES

Log = list[tuple[object, ...]]


def script(policy: str, seed: int, events: int = 600) -> Log:
    """A busy hour in the life of a balancer; everything that it answered."""
    rng = Random(seed)
    balancer = fleet(policy, "a", "b", "c", seed=seed, limits={"c": 12})
    now, running, marks, log = 0.0, list[Lease](), list[tuple[str, int]](), Log()
    for _ in range(events):
        now += rng.expovariate(5)
        what = rng.random()
        if what < 0.45:
            beginnings = tuple(rng.randrange(30) for _ in range(rng.randrange(4)))
            facts = chat(rng.randrange(9000), prefixes=beginnings, session=f"s{rng.randrange(12)}")
            got = balancer.assign(facts, now)
            if isinstance(got, Lease):
                running.append(got)
                log.append((got.backend.id, got.choice.reason, tuple(got.choice.scores), tuple(got.choice.terms)))
            else:
                log.append((got.status, got.code, got.message))
        elif what < 0.80 and running:
            lease = running.pop(rng.randrange(len(running)))
            balancer.first_token(lease, now)
            lease.produced += rng.randrange(50)
            balancer.finish(lease, rng.choice([OK, OK, OK, FAILED, CLIENT_GONE]), now, Usage(90, 40))
        elif what < 0.88:
            balancer.tick(now)
        elif what < 0.96:
            id = rng.choice(list(balancer.backends))
            marks.append((id, balancer.poll_started(id)))
            if rng.random() < 0.8:
                id, mark = marks.pop()
                if id in balancer.backends:
                    balancer.poll_result(id, mark, EngineStats(waiting=float(rng.randrange(4))), now)
        elif what < 0.98:
            log.append(("probe", balancer.probe(rng.choice(list(balancer.backends)), rng.random() < 0.7)))
        elif "d" in balancer.backends:
            balancer.remove("d")
        else:
            join(balancer, "d", weight=None)
    return log


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_events_give_the_same_decisions(policy: str) -> None:
    first = script(policy, 5)
    assert first == script(policy, 5)
    assert len({entry[0] for entry in first}) > 2, "the script is no test if everything goes to one place"
    assert first != script(policy, 6)


def test_they_do_so_in_another_process_with_other_hashes() -> None:
    """Sets and dictionaries of strings are ordered by a secret of the process: no decision may hang on it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_core_purity as t;"
        "print([t.script(policy, 5, 300) for policy in t.POLICIES])"
    )
    here = str(Path(__file__).parent)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
