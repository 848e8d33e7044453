"""Several balancers over one fleet: whatever happens on any of them, all come to know of it, and nothing is left.

Facts travel over wires that a test empties when it likes, so that a sibling may be told late, or never.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from core_fleet import LOADS, MODEL, chat, join, loads, place, refuse
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fairlead.core.balancer import CLIENT_GONE, FAILED, OK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.remote import ANEW, CLOSED, STARTED, Fact, SharedBalancer
from fairlead.core.model import EngineStats, Facts, Kind, Usage
from fairlead.core.policies.registry import make

ENDS = tuple(range(1_000, 9_000, 1_000))  # of blocks


class Places:
    """Places of one backend, of all balancers together."""

    def __init__(self) -> None:
        self.count = self.most = 0

    def taken(self) -> int:
        return self.count

    def take(self) -> None:
        self.count += 1
        self.most = max(self.most, self.count)

    def give(self) -> None:
        self.count -= 1


class Registry(dict[str, Places]):
    """What workers have in shared memory."""

    held = 0

    def of(self, id: str) -> Places:
        return self.setdefault(id, Places())

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *exc: object) -> None:
        pass


class Siblings:
    """Balancers that tell each other, once a wire is emptied."""

    def __init__(
        self, count: int, *ids: str, policy: str = "least_connections", limit: int | None = None, **rules: Any
    ) -> None:
        self.registry = Registry()
        self.wires: dict[tuple[int, int], list[Fact]] = {}
        self.all: list[SharedBalancer] = []
        self._what = ids, policy, limit, rules
        for _ in range(count):
            self.all.append(self._make(len(self.all)))

    def _make(self, index: int) -> SharedBalancer:
        ids, policy, limit, rules = self._what
        balancer = SharedBalancer(make(policy), Random(index), **rules)
        for id in ids:
            join(balancer, id, max_connections=limit)

        def tell(fact: Fact) -> None:
            for other in range(len(self.all)):
                if other != index:
                    self.wires.setdefault((index, other), []).append(fact)

        balancer.share(tell, self.registry, ENDS)
        return balancer

    def deliver(self, one: int | None = None, other: int | None = None) -> None:
        """Empty all wires, or that from one to another."""
        for (sender, taker), facts in self.wires.items():
            if one is None or (sender, taker) == (one, other):
                told = list(facts)
                facts.clear()
                self.all[taker].hear(sender, told)

    def die(self, index: int) -> None:
        """A balancer dies, and another one takes its place, with nothing known of either side."""
        for pair in [pair for pair in self.wires if index in pair]:
            del self.wires[pair]
        for lease in self.all[index]._own:
            assert lease.backend.places is not None
            lease.backend.places.give()  # as the supervisor empties its column
        self.all[index] = self._make(index)
        for other, balancer in enumerate(self.all):
            if other != index:
                balancer.gone(index)
                self.all[index].hear(other, balancer.open_leases())


PAIRS = st.sampled_from([(a, b) for a in range(3) for b in range(3) if a != b])
NUMBERS = st.integers(0, 1 << 30)


class Shared(RuleBasedStateMachine):
    """Any script of requests, deliveries, losses and deaths on three balancers."""

    def __init__(self) -> None:
        super().__init__()
        self.siblings = Siblings(3, "a", "b", policy="least_pending_tokens", max_fails=0)
        self.open: list[tuple[int, Lease]] = []
        self.placed: Counter[str] = Counter()
        self.now = 1.0

    @rule(index=st.integers(0, 2), prompt=st.integers(1, 9000), pause=st.floats(0, 1))
    def assign(self, index: int, prompt: int, pause: float) -> None:
        self.now += pause
        self.open.append((index, place(self.siblings.all[index], chat(prompt), self.now)))

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, tokens=st.integers(1, 50))
    def go_on(self, number: int, tokens: int) -> None:
        index, lease = self.open[number % len(self.open)]
        self.siblings.all[index].first_token(lease, self.now)
        lease.produced += tokens
        lease.paused = not lease.paused
        self.siblings.all[index].tick(self.now)

    @precondition(lambda self: self.open)
    @rule(number=NUMBERS, outcome=st.sampled_from([OK, FAILED, CLIENT_GONE]))
    def finish(self, number: int, outcome: str) -> None:
        index, lease = self.open.pop(number % len(self.open))
        assert self.siblings.all[index].finish(lease, outcome, self.now, Usage(100, 10))
        assert not self.siblings.all[index].finish(lease, OK, self.now)

    @rule(pair=PAIRS)
    def deliver(self, pair: tuple[int, int]) -> None:
        self.siblings.deliver(*pair)

    @rule(pair=PAIRS)
    def lose(self, pair: tuple[int, int]) -> None:
        """A slow sibling misses what was on its way, and is told anew."""
        self.siblings.wires[pair] = list(self.siblings.all[pair[0]].open_leases())

    @rule(index=st.integers(0, 2))
    def die(self, index: int) -> None:
        self.siblings.die(index)
        self.open = [(owner, lease) for owner, lease in self.open if owner != index]

    @rule()
    def agree(self) -> None:
        """Once all is delivered and settled, all see the same load: that of all open leases."""
        for balancer in self.siblings.all:
            balancer.tick(self.now)
        self.siblings.deliver()
        for balancer in self.siblings.all:
            balancer.tick(self.now)
        first, *others = [loads(balancer) for balancer in self.siblings.all]
        assert all(other == first for other in others)
        assert sum(row[0] for row in first.values()) == len(self.open)
        own = [balancer.own_loads() for balancer in self.siblings.all]
        for id, row in first.items():
            assert row[0] == sum(each[id][0] for each in own)
            assert row[1] + row[2] == sum(each[id][1] + each[id][2] for each in own)
        for index, balancer in enumerate(self.siblings.all):
            for other, count in balancer.mirrored().items():
                assert count == sum(owner == other for owner, _ in self.open), f"what {index} knows of {other}"

    @invariant()
    def every_place_is_held_by_a_lease(self) -> None:
        assert sum(places.count for places in self.siblings.registry.values()) == len(self.open)

    def teardown(self) -> None:
        while self.open:
            self.finish(0, OK)
        self.agree()
        for balancer in self.siblings.all:
            assert not balancer.ledger.leases
            assert balancer.ledger.opened == balancer.ledger.closed
            assert all(row == (0,) * len(LOADS) for row in loads(balancer).values())
            assert all(b.unseen_new == b.unseen_old == 0 for b in balancer.backends.values())


TestShared = Shared.TestCase
TestShared.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_policy_sees_the_load_of_all() -> None:
    siblings = Siblings(2, "a", "b")
    one, other = siblings.all
    here = place(one)
    siblings.deliver()
    assert place(other).backend is not other.backends[here.backend.id]
    assert (one.backends["a"].placed + one.backends["b"].placed, other.ledger.opened) == (1, 2)


def test_without_a_word_of_each_other_both_choose_alone() -> None:
    siblings = Siblings(2, "a", "b", policy="least_pending_tokens")
    leases = [place(balancer, chat(4_000)) for balancer in siblings.all for _ in range(2)]
    assert Counter(lease.backend.id for lease in leases) == {"a": 2, "b": 2}
    assert all(not balancer.mirrored().get(1 - i) for i, balancer in enumerate(siblings.all))


def test_a_prompt_that_a_sibling_sent_is_found_cached() -> None:
    siblings = Siblings(2, "a", "b", policy="prefix_cache")
    one, other = siblings.all

    def prompt() -> Facts:
        return Facts(Kind.CHAT, MODEL, True, 8_000, span=8_000, blocks=list(range(1, 9)), block_ends=ENDS)

    sent = place(one, prompt())
    one.finish(sent, OK, 1.0, Usage(2_000, 10))
    siblings.deliver()
    lease = place(other, prompt(), 2.0)
    assert (lease.backend.id, lease.cached > 1_000) == (sent.backend.id, True)


def test_failures_that_siblings_see_count_together_and_a_success_in_between_forgives() -> None:
    siblings = Siblings(2, "a", max_fails=3)
    one, other = siblings.all
    for now, (balancer, outcome) in enumerate(
        [(one, FAILED), (other, FAILED), (one, OK), (other, FAILED), (one, FAILED)], start=1
    ):
        balancer.finish(place(balancer, now=now), outcome, now + 0.5, reason="connect")
        siblings.deliver()
    assert not any(balancer.backends["a"].passive.resting for balancer in siblings.all)
    other.finish(place(other, now=8.0), FAILED, 8.5, reason="connect")
    assert (one.backends["a"].passive.resting, other.backends["a"].passive.resting) == (False, True)
    siblings.deliver()
    assert one.backends["a"].passive.ejected(9.0)
    assert [balancer.backends["a"].errors for balancer in siblings.all] == [2, 3], "own ones only are counted"


def test_a_backend_that_comes_back_is_tried_by_one_of_them_at_a_time() -> None:
    siblings = Siblings(2, "a", "b", max_fails=1, fail_timeout=10.0)
    one, other = siblings.all
    lease = place(one, now=1.0)
    one.finish(lease, FAILED, 2.0, reason="502")
    siblings.deliver()
    bad, late = lease.backend.id, 60.0
    trial = place(one, now=late)
    assert trial.backend.id == bad
    siblings.deliver()
    assert place(other, now=late).backend.id != bad
    one.first_token(trial, late + 1)
    one.finish(trial, OK, late + 2, Usage(100, 10))
    siblings.deliver()
    assert not other.backends[bad].passive.resting


def test_load_of_siblings_is_not_that_of_strangers() -> None:
    siblings = Siblings(2, "a")
    one, other = siblings.all
    for _ in range(3):
        place(one)
    siblings.deliver()
    mark = other.poll_started("a")
    for _ in range(2):
        place(one)
    siblings.deliver()  # these came while the engine was read
    other.poll_result("a", mark, EngineStats(waiting=5.0, running=0.0), 1.0)
    assert (other.backends["a"].foreign_waiting, other.backends["a"].foreign_running) == (0.0, 0.0)


def test_a_limit_holds_for_all_together_at_every_moment() -> None:
    siblings = Siblings(3, "a", limit=4)
    random = Random(7)
    held: list[tuple[SharedBalancer, Lease]] = []
    refused = 0
    for step in range(400):
        balancer = siblings.all[random.randrange(3)]
        if held and random.random() < 0.4:
            owner, lease = held.pop(random.randrange(len(held)))
            owner.finish(lease, OK, float(step))
        else:
            found = balancer.assign(chat(), float(step))
            if isinstance(found, Lease):
                held.append((balancer, found))
            else:
                refused += 1
                assert (found.code, len(held)) == ("at_capacity", 4), "it is refused only when all places are taken"
        if random.random() < 0.3:
            siblings.deliver()
    assert (siblings.registry["a"].most, refused > 20) == (4, True)
    assert siblings.registry.held, "the look and the choice were one step"


def test_a_place_that_a_sibling_gave_back_is_there_before_the_news_of_it() -> None:
    siblings = Siblings(2, "a", limit=1)
    one, other = siblings.all
    lease = place(one)
    siblings.deliver()
    assert refuse(other).code == "at_capacity"
    one.finish(lease, OK, 1.0)
    assert place(other, now=1.0).backend.inflight == 2, "the mirrored lease is still open here"


def test_facts_of_unknown_leases_mean_nothing_and_a_new_telling_replaces_the_old() -> None:
    siblings = Siblings(2, "a")
    one, other = siblings.all
    other.hear(0, [(STARTED, 99, 1.0), (CLOSED, 99, OK, "", True, 2.0)])
    assert other.ledger.opened == 0
    place(one)
    for _ in range(3):
        other.hear(0, one.open_leases())
    assert other.backends["a"].inflight == 1
    other.hear(0, [(ANEW,)])
    assert other.backends["a"].inflight == 0


def test_a_request_for_a_backend_that_is_not_known_here_is_let_pass() -> None:
    siblings = Siblings(2, "a")
    one, other = siblings.all
    join(one, "new")
    one.backends["new"].places = siblings.registry.of("new")
    lease = place(one, Facts(kind=Kind.CHAT, model=MODEL, group=frozenset({"new"})))
    siblings.deliver()
    one.first_token(lease, 1.0)
    one.finish(lease, OK, 2.0)
    siblings.deliver()
    assert (lease.backend.id, other.ledger.opened) == ("new", 0)
