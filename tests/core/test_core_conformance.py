"""Every registered policy keeps the promises that all policies make, whatever it is that it promises besides.

`Watched` (core_fleet.py) checks range, completeness and that nothing is changed at every single choice.
"""

from __future__ import annotations

from random import Random

import pytest
from core_fleet import Watched, chat, fleet, join, place, report, serve, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import FAILED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind
from fairlead.core.policies.registry import DEFAULT, POLICIES, make

every_policy = pytest.mark.parametrize("name", POLICIES)

backends = st.lists(st.tuples(st.none() | st.floats(0.01, 100), st.none() | st.integers(1, 5)), min_size=1, max_size=6)
requests = st.builds(
    Facts,
    kind=st.sampled_from([Kind.CHAT, Kind.COMPLETION, Kind.PROMPT_ONLY, Kind.CHEAP]),
    model=st.sampled_from([None, "m"]),
    prompt_bytes=st.integers(0, 100_000),
    max_tokens=st.none() | st.integers(0, 10_000),
    n=st.integers(1, 4),
    blocks=st.lists(st.integers(0, 20), max_size=4).map(tuple),
    block_ends=st.just((256, 1_024, 4_096, 16_384)),
    span=st.integers(0, 100_000),
    session=st.none() | st.sampled_from(["s", "t", "u"]),
)
Script = list[tuple[Facts, str, float]]
ends = st.sampled_from(["stay", "token", OK, FAILED])


def watched(name: str, *ids: str, seed: int = 1) -> Balancer:
    return fleet(Watched(make(name)), *ids, seed=seed)


def key_of(number: int) -> tuple[int, ...]:
    """A prompt's beginning, unlike any other."""
    return (Random(number).getrandbits(64),)


@every_policy
def test_a_policy_is_called_what_the_table_says(name: str) -> None:
    policy = make(name)
    assert policy.name == name
    assert len(set(policy.term_names)) == len(policy.term_names)
    assert isinstance(policy.needs_prefixes, bool)


def test_the_default_is_in_the_table() -> None:
    assert DEFAULT in POLICIES
    with pytest.raises(KeyError):
        make("least_lodaed")


@every_policy
def test_each_balancer_has_a_policy_with_its_own_memory(name: str) -> None:
    assert make(name) is not make(name)


@every_policy
@settings(derandomize=True, max_examples=40, deadline=None)
@given(shape=backends, script=st.lists(st.tuples(requests, ends, st.floats(0, 20)), max_size=25))
def test_any_traffic_on_any_fleet(name: str, shape: list[tuple[float | None, int | None]], script: Script) -> None:
    balancer = fleet(Watched(make(name)), seed=3)
    for i, (weight, limit) in enumerate(shape):
        join(balancer, f"b{i}", weight=weight, max_connections=limit)
    now = 1.0
    for facts, end, pause in script:
        now += pause
        balancer.tick(now)
        lease = balancer.assign(facts, now)
        if not isinstance(lease, Lease):
            assert lease.code == "at_capacity"
            for b in balancer.backends.values():
                full = b.max_connections is not None and b.inflight >= b.max_connections
                assert full or b.passive.ejected(now)
            continue
        backend = lease.backend
        assert lease.candidates[lease.choice.index] is backend
        assert backend.max_connections is None or backend.inflight <= backend.max_connections
        if end != "stay":
            balancer.first_token(lease, now + 0.1)
        if end in (OK, FAILED):
            balancer.finish(lease, end, now + 0.2)


@every_policy
def test_the_same_seed_gives_the_same_choices(name: str) -> None:
    def run() -> list[str]:
        balancer = watched(name, "a", "b", "c", seed=7)
        rng, chosen = Random(11), []
        for i in range(200):
            facts = chat(rng.randrange(4000), prefixes=key_of(rng.randrange(9)), session=str(rng.randrange(9)))
            lease = place(balancer, facts, i / 10)
            chosen.append(lease.backend.id)
            if rng.random() < 0.8:
                balancer.finish(lease, OK, i / 10 + 0.05)
        return chosen

    assert run() == run()


@every_policy
def test_one_backend_gets_everything(name: str) -> None:
    balancer = watched(name, "a")
    leases = [place(balancer, chat(prefixes=key_of(i), session=str(i % 3))) for i in range(60)]
    assert spread(leases) == {"a": 60}


@every_policy
def test_scores_and_terms_line_up_with_the_candidates(name: str) -> None:
    balancer = watched(name, "a", "b", "c")
    balancer.set_draining("a", True)
    lease = place(balancer, chat(prefixes=(1,), session="s"))
    assert [b.id for b in lease.candidates] == ["b", "c"]
    assert len(lease.choice.scores) == 2
    assert len(lease.choice.terms) == 2


def test_where_scores_decide_the_lowest_is_chosen() -> None:
    for name in ("round_robin", "least_connections", "least_waiting", "least_pending_tokens", "power_of_two"):
        balancer = watched(name, "a", "b", "c")
        rng = Random(2)
        for i in range(100):
            choice = place(balancer, chat(rng.randrange(4000)), i / 10).choice
            near = 1.1 if name == "least_pending_tokens" else 1.0  # estimates: a tenth more is as good
            assert choice.scores[choice.index] <= near * min(choice.scores), name


@every_policy
@pytest.mark.parametrize("why", ["down", "draining", "ejected", "full"])
def test_an_unusable_backend_is_not_chosen_while_another_is_usable(name: str, why: str) -> None:
    balancer = watched(name, "good")
    join(balancer, "bad", max_connections=3 if why == "full" else None)
    join(balancer, "fine")
    if why == "down":
        for _ in range(3):
            balancer.probe("bad", False, "refused")
    elif why == "draining":
        balancer.set_draining("bad", True)
    elif why == "ejected":
        for b in ("good", "fine"):
            balancer.set_draining(b, True)
        for _ in range(3):
            balancer.finish(place(balancer, now=1.0), FAILED, 1.0)
        for b in ("good", "fine"):
            balancer.set_draining(b, False)
    leases = [place(balancer, chat(prefixes=key_of(i % 20), session=str(i % 20)), 2.0) for i in range(120)]
    counts = spread(leases)
    assert counts["bad"] <= (3 if why == "full" else 0)
    assert counts["good"] > 10
    assert counts["fine"] > 10


@every_policy
def test_a_backend_that_joins_or_comes_back_gets_work(name: str) -> None:
    balancer = watched(name, "a", "b")
    for i in range(50):
        serve(balancer, chat(prefixes=key_of(i), session=f"old{i}"), now=float(i))
    balancer.remove("a")
    join(balancer, "c")
    balancer.tick(60.0)
    leases = [place(balancer, chat(prefixes=key_of(100 + i), session=f"new{i}"), 60.0) for i in range(100)]
    assert set(spread(leases)) == {"b", "c"}
    assert min(spread(leases).values()) >= 25


@every_policy
def test_a_burst_over_equal_idle_backends_is_spread_fairly(name: str) -> None:
    balancer = watched(name, "a", "b", "c", "d")
    leases = [place(balancer, chat(prefixes=key_of(i), session=f"s{i}")) for i in range(400)]
    counts = spread(leases)
    slack = {"random": 40, "prefix_hash": 26, "power_of_two": 10}.get(name, 2)
    assert all(abs(counts[id] - 100) <= slack for id in "abcd"), counts


@every_policy
def test_requests_one_at_a_time_over_equal_backends_are_spread_fairly(name: str) -> None:
    """No load to tell backends apart, and answer times that differ by chance: that must not pick a favourite."""
    balancer = watched(name, "a", "b")
    rng, now, leases = Random(5), 1.0, []
    for i in range(300):
        now += 3.0
        balancer.tick(now)
        facts = chat(rng.randrange(200, 4000), prefixes=key_of(i), session=f"s{i}")
        leases.append(serve(balancer, facts, now, seconds=1.0 * rng.uniform(0.9, 1.1)))
    late = spread(leases[100:])
    assert min(late["a"], late["b"]) >= 50, late


@every_policy
def test_a_weight_that_is_set_counts(name: str) -> None:
    balancer = fleet(Watched(make(name)), "light", "heavy", weights={"light": 1.0, "heavy": 3.0})
    balancer.tick(0.0)
    counts = spread(place(balancer, chat(prefixes=key_of(i), session=f"s{i}")) for i in range(400))
    low, high = (
        (0.60, 0.82) if name == "prefix_hash" else (0.70, 0.80)
    )  # keys lie equally, only the bound knows weights
    if name == "power_of_two":
        low = 0.60
    assert low <= counts["heavy"] / 400 <= high, counts


@every_policy
def test_backends_without_metrics_are_used_as_well(name: str) -> None:
    """One engine tells its queue, its twin does not: the twin must not be left idle for that."""
    balancer = watched(name, "tells", "silent")
    running: list[Lease] = []
    counts: dict[str, int] = {"tells": 0, "silent": 0}
    for i in range(400):
        now = 1.0 + i * 0.1
        report(balancer, "tells", now, waiting=0.0)
        lease = place(balancer, chat(prefixes=key_of(i), session=f"s{i}"), now)
        counts[lease.backend.id] += 1
        balancer.first_token(lease, now)
        running.append(lease)
        if len(running) > 20:
            balancer.finish(running.pop(0), OK, now)
    assert min(counts.values()) >= 100, counts
