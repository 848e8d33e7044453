"""`prefix_hash` and `session`: the same to the same, and when that has to yield."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import ceil
from random import Random

import pytest
from core_fleet import chat, fleet, join, place, serve, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import OK, Balancer
from fairlead.core.policies import session as session_module
from fairlead.core.policies.registry import make

KEYS = [Random(i).getrandbits(64) for i in range(2000)]


def homes(balancer: Balancer, keys: list[int], now: float = 1.0) -> dict[int, str]:
    """Where each key goes when nothing else runs."""
    return {key: serve(balancer, chat(prefixes=(key,)), now).backend.id for key in keys}


# --- prefix_hash: placing ------------------------------------------------------------------------------------


def test_keys_lie_evenly_on_equal_backends() -> None:
    counts = Counter(homes(fleet("prefix_hash", *"abcd"), KEYS).values())
    assert all(400 <= counts[id] <= 600 for id in "abcd"), counts


def test_a_key_keeps_its_place_in_any_balancer_and_any_order_of_backends() -> None:
    one = homes(fleet("prefix_hash", *"abcd", seed=1), KEYS[:300])
    other = homes(fleet("prefix_hash", *"dbca", seed=2), list(reversed(KEYS[:300])))
    assert one == other


@pytest.mark.parametrize("count", [2, 4, 9])
def test_a_backend_that_joins_takes_its_part_of_the_keys_and_moves_no_other(count: int) -> None:
    balancer = fleet("prefix_hash", *(f"b{i}" for i in range(count)))
    before = homes(balancer, KEYS)
    join(balancer, "new")
    after = homes(balancer, KEYS)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert all(after[key] == "new" for key in moved)
    assert 0.7 / (count + 1) <= len(moved) / len(KEYS) <= 1.3 / (count + 1)


@pytest.mark.parametrize("how", ["remove", "drain", "down"])
def test_a_backend_that_leaves_gives_back_its_own_keys_only(how: str) -> None:
    balancer = fleet("prefix_hash", *"abcde")
    before = homes(balancer, KEYS)
    if how == "remove":
        balancer.remove("c")
    elif how == "drain":
        balancer.set_draining("c", True)
    else:
        for _ in range(3):
            balancer.probe("c", False)
    after = homes(balancer, KEYS)
    for key in KEYS:
        assert after[key] == before[key] if before[key] != "c" else after[key] != "c"
    gained = Counter(after[key] for key in KEYS if before[key] == "c")
    assert set(gained) == set("abde"), "its keys are spread over all others"


def test_a_backend_that_comes_back_gets_its_keys_back() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    before = homes(balancer, KEYS[:500])
    balancer.set_draining("b", True)
    homes(balancer, KEYS[:500])
    balancer.set_draining("b", False)
    assert homes(balancer, KEYS[:500]) == before


# --- prefix_hash: affinity and load --------------------------------------------------------------------------


def test_conversations_stay_where_they_began_while_they_grow() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    rng = Random(4)
    told: dict[int, list[int]] = defaultdict(list)
    where: dict[int, set[str]] = defaultdict(set)
    for step in range(1500):
        talk = rng.randrange(40)
        if len(told[talk]) < 4:
            told[talk].append(rng.getrandbits(64))
        lease = serve(balancer, chat(prefixes=tuple(told[talk])), float(step))
        where[talk].add(lease.backend.id)
    assert all(len(ids) == 1 for ids in where.values()), where


def test_conversations_under_one_system_prompt_are_told_apart() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    system, rng = 77, Random(6)
    talks = [rng.getrandbits(64) for _ in range(40)]
    where: dict[int, set[str]] = defaultdict(set)
    for step in range(2000):
        talk = rng.choice(talks)
        lease = serve(balancer, chat(prefixes=(system, talk)), float(step))
        if step >= 500:
            where[talk].add(lease.backend.id)
    assert all(len(ids) == 1 for ids in where.values())
    assert set().union(*where.values()) == set("abcd")


def test_one_beginning_for_everybody_is_spread_when_requests_overlap() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    leases, running = [], []
    for step in range(600):
        lease = place(balancer, chat(prefixes=(77,)), step / 10)
        leases.append(lease)
        running.append(lease)
        if len(running) > 40:
            balancer.finish(running.pop(0), OK, step / 10)
    counts = spread(leases[200:])
    assert max(counts.values()) <= 0.40 * 400, counts


def test_one_beginning_for_everybody_is_spread_when_requests_come_one_at_a_time() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    leases = [serve(balancer, chat(prefixes=(77,)), float(step)) for step in range(600)]
    counts = spread(leases[200:])
    assert max(counts.values()) <= 0.80 * 400, counts


def test_two_backends_and_one_beginning_one_at_a_time_raise_no_share_alarm() -> None:
    balancer = fleet("prefix_hash", "a", "b")
    leases = [serve(balancer, chat(prefixes=(77, 78)), float(step)) for step in range(600)]
    counts = spread(leases[200:])
    assert max(counts.values()) <= 0.80 * 400, counts


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    factor=st.sampled_from([1.0, 1.25, 2.0]),
    weights=st.lists(st.sampled_from([None, 1.0, 2.0, 8.0]), min_size=1, max_size=5),
    script=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80),
)
def test_the_load_bound_holds(factor: float, weights: list[float | None], script: list[tuple[int, bool]]) -> None:
    balancer = fleet(make("prefix_hash", load_factor=factor))
    for i, weight in enumerate(weights):
        join(balancer, f"b{i}", weight=weight)
    balancer.tick(0.0)
    running = []
    for key, end in script:
        lease = place(balancer, chat(prefixes=(KEYS[key],)))
        running.append(lease)
        capacity = sum(b.capacity for b in balancer.backends.values())
        fair = len(running) * lease.backend.capacity / capacity
        assert lease.backend.inflight <= ceil(factor * fair + 1e-9)
        if end:
            balancer.finish(running.pop(0), OK, 0.0)


def test_an_overloaded_home_spills_to_the_same_neighbour_each_time() -> None:
    neighbours = set()
    for _ in range(10):
        balancer = fleet("prefix_hash", *"abcd")
        home = place(balancer, chat(prefixes=(KEYS[0],))).backend.id
        spilled = [place(balancer, chat(prefixes=(KEYS[0],))).backend.id for _ in range(2)]
        neighbours.add(tuple(spilled))
        assert spilled[0] != home
    assert len(neighbours) == 1


def test_a_prompt_without_hashes_goes_to_the_least_loaded() -> None:
    balancer = fleet("prefix_hash", *"abcd")
    counts = spread(place(balancer, chat()) for _ in range(100))
    assert max(counts.values()) == min(counts.values()) == 25


def test_a_flood_of_prompts_does_not_slow_the_choice_or_lose_the_places() -> None:
    """Popularity is remembered within a bound; the places themselves need no memory."""
    balancer = fleet("prefix_hash", *"abcd")
    before = homes(balancer, KEYS[:100])
    rng = Random(8)
    for _ in range(6000):
        balancer.finish(place(balancer, chat(prefixes=tuple(rng.getrandbits(64) for _ in range(5)))), OK, 1.0)
    assert homes(balancer, KEYS[:100]) == before


# --- session -------------------------------------------------------------------------------------------------


def test_a_session_stays_on_its_backend() -> None:
    balancer = fleet("session", *"abcd")
    rng = Random(1)
    where: dict[str, set[str]] = defaultdict(set)
    for step in range(1000):
        name = f"s{rng.randrange(50)}"
        where[name].add(serve(balancer, chat(rng.randrange(4000), session=name), float(step)).backend.id)
    assert all(len(ids) == 1 for ids in where.values())
    first = Counter(next(iter(ids)) for ids in where.values())
    assert len(first) == 4


def test_a_session_is_forgotten_ttl_after_its_last_request() -> None:
    def moved(pause: float) -> bool:
        balancer = fleet(make("session", ttl=10.0), "a", "b")
        home = serve(balancer, chat(session="s"), 0.0).backend.id
        assert serve(balancer, chat(session="s"), 9.0).backend.id == home  # a request renews it
        for _ in range(3):  # the home is busier, though not overloaded: whoever has a choice goes elsewhere
            balancer.set_draining("b" if home == "a" else "a", True)
            place(balancer, chat(40_000), 9.0)
            balancer.set_draining("b" if home == "a" else "a", False)
            place(balancer, chat(40), 9.0)
        return place(balancer, chat(session="s"), 9.0 + pause).backend.id != home

    assert not moved(9.9)
    assert moved(10.1)


@pytest.mark.parametrize("how", ["remove", "drain", "down"])
def test_a_session_whose_home_is_gone_finds_a_new_one_and_stays_there(how: str) -> None:
    balancer = fleet("session", *"abc")
    home = serve(balancer, chat(session="s"), 0.0).backend.id
    if how == "remove":
        balancer.remove(home)
    elif how == "drain":
        balancer.set_draining(home, True)
    else:
        for _ in range(3):
            balancer.probe(home, False)
    new = {serve(balancer, chat(session="s"), 1.0 + i).backend.id for i in range(20)}
    assert len(new) == 1
    assert home not in new


def test_an_overloaded_home_loses_the_session() -> None:
    balancer = fleet("session", *"abcd")
    leases = [place(balancer, chat(session="greedy"), 0.0) for _ in range(200)]
    counts = spread(leases)
    assert max(counts.values()) <= 0.55 * 200, counts


def test_a_session_may_have_two_requests_at_once_on_an_idle_fleet() -> None:
    balancer = fleet("session", *"abcdefgh")
    assert len({place(balancer, chat(session="s"), 0.0).backend.id for _ in range(2)}) == 1


def test_requests_without_a_session_go_by_load() -> None:
    balancer = fleet("session", *"abcd")
    counts = spread(place(balancer) for _ in range(100))
    assert max(counts.values()) == 25


def test_sessions_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 100)
    balancer = fleet("session", "a", "b")
    for i in range(150):
        serve(balancer, chat(session=f"s{i}"), float(i))
    reasons = [serve(balancer, chat(session=f"s{i}"), 200.0).choice.reason for i in (149, 149, 0)]
    assert reasons[0] == reasons[1] == "the session's backend"
    assert reasons[2].startswith("a new session")
