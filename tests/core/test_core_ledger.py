"""The ledger's laws: whatever happens in whatever order, the sums are those of the open leases, and rest is zero."""

from __future__ import annotations

from collections import Counter

import pytest
from core_fleet import LOADS, chat, fleet, join, loads, place
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fairlead.core.balancer import ABANDONED, CLIENT_GONE, FAILED, OK, REFUSED
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Kind, Usage

OUTCOMES = (OK, FAILED, CLIENT_GONE, REFUSED, ABANDONED)
IDS = tuple("abcd")

picks = st.integers(0, 1 << 30)
usages = st.none() | st.builds(Usage, st.integers(0, 9000), st.integers(0, 900), st.none() | st.integers(0, 9000))
facts = st.builds(
    Facts,
    kind=st.sampled_from([Kind.CHAT, Kind.PROMPT_ONLY, Kind.CHEAP]),
    model=st.sampled_from([None, "m"]),
    prompt_bytes=st.integers(0, 50_000),
    prompt_ids=st.sampled_from([0, 0, 17]),
    max_tokens=st.none() | st.integers(0, 500),
    n=st.integers(1, 3),
)


class Traffic(RuleBasedStateMachine):
    """Any script of events, checked after every one of them against books kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer = fleet("least_pending_tokens", "a", "b", limits={"b": 3})
        self.now = 1.0
        self.leases: list[Lease] = []  # every one there ever was
        self.backends: list[Backend] = list(self.balancer.backends.values())
        self.marks: list[tuple[str, int]] = []
        self.finished = 0

    def pick(self, number: int) -> Lease:
        return self.leases[number % len(self.leases)]

    @rule(facts=facts, pause=st.floats(0, 40))
    def assign(self, facts: Facts, pause: float) -> None:
        self.now += pause
        lease = self.balancer.assign(facts, self.now)
        if isinstance(lease, Lease):
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(number=picks)
    def retry(self, number: int) -> None:
        old = self.pick(number)
        self.balancer.finish(old, FAILED, self.now, reason="connect")
        if self.balancer.may_retry(old, "connect", 1, self.now, self.now, [old.backend.id]):
            lease = self.balancer.assign(old.facts, self.now, [old.backend.id])
            if isinstance(lease, Lease):
                self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(number=picks)
    def first_token(self, number: int) -> None:
        self.balancer.first_token(self.pick(number), self.now)

    @precondition(lambda self: self.leases)
    @rule(number=picks, tokens=st.integers(1, 700))
    def produce(self, number: int, tokens: int) -> None:
        self.pick(number).produced += tokens

    @rule(pause=st.floats(0, 2))
    def tick(self, pause: float) -> None:
        self.now += pause
        self.balancer.tick(self.now)

    @precondition(lambda self: self.leases)
    @rule(number=picks, outcome=st.sampled_from(OUTCOMES), usage=usages)
    def finish(self, number: int, outcome: str, usage: Usage | None) -> None:
        lease = self.pick(number)
        was_open = lease.open
        assert self.balancer.finish(lease, outcome, self.now, usage) is was_open
        assert not self.balancer.finish(lease, FAILED, self.now), "only the first end counts"

    @rule(id=st.sampled_from(IDS))
    def come_or_go(self, id: str) -> None:
        if id in self.balancer.backends:
            self.balancer.remove(id)
        else:
            self.backends.append(join(self.balancer, id))

    @rule(id=st.sampled_from(IDS), ok=st.booleans(), draining=st.booleans())
    def judge(self, id: str, ok: bool, draining: bool) -> None:
        if id in self.balancer.backends:
            self.balancer.probe(id, ok)
            self.balancer.set_draining(id, draining)

    @rule(id=st.sampled_from(IDS))
    def poll(self, id: str) -> None:
        if id in self.balancer.backends:
            self.marks.append((id, self.balancer.poll_started(id)))

    @precondition(lambda self: self.marks)
    @rule(number=picks)
    def polled(self, number: int) -> None:
        id, mark = self.marks.pop(number % len(self.marks))
        if id in self.balancer.backends:
            self.balancer.poll_result(id, mark, EngineStats(waiting=1.0), self.now)

    @invariant()
    def sums_are_those_of_the_open_leases(self) -> None:
        running = [lease for lease in self.leases if lease.open]
        for backend in self.backends:
            mine = [lease for lease in running if lease.backend is backend]
            decoding = [lease for lease in mine if lease.prompt_left == 0 and lease.first_token_at]
            assert backend.inflight == len(mine)
            assert backend.prompt_pending == sum(lease.prompt_left for lease in mine)
            assert backend.output_pending == sum(lease.output_left for lease in mine)
            assert backend.decoding == len(decoding)
            assert backend.kv_tokens == sum(lease.prompt_tokens + lease.settled for lease in decoding)
            assert all(type(getattr(backend, name)) is int for name in LOADS), "whole numbers, or zero is not exact"
            assert 0 <= backend.unseen_old + backend.unseen_new <= len(mine)

    @invariant()
    def every_lease_is_counted(self) -> None:
        ledger = self.balancer.ledger
        assert set(ledger.leases) == {lease for lease in self.leases if lease.open}
        assert ledger.opened == len(self.leases)
        assert ledger.closed == ledger.opened - len(ledger.leases)
        assert Counter(lease.backend for lease in self.leases) == Counter(
            {backend: backend.placed for backend in self.backends if backend.placed}
        )

    def teardown(self) -> None:
        for number, lease in enumerate(self.leases):
            self.balancer.finish(lease, OUTCOMES[number % len(OUTCOMES)], self.now)
        ledger = self.balancer.ledger
        assert ledger.opened == ledger.closed == len(self.leases)
        assert not ledger.leases
        for backend in self.backends:
            assert [getattr(backend, name) for name in LOADS] == [0] * len(LOADS)
            assert (backend.unseen_old, backend.unseen_new) == (0, 0)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_one_request_by_hand() -> None:
    balancer = fleet("least_pending_tokens", "a")
    lease = place(balancer, chat(4000, max_tokens=100), 1.0)
    prompt = lease.prompt_tokens
    assert loads(balancer) == {"a": (1, prompt, 100, 0, 0)}
    balancer.first_token(lease, 2.0)
    balancer.first_token(lease, 2.5)  # said twice, counted once
    assert loads(balancer) == {"a": (1, 0, 100, 1, prompt)}
    lease.produced += 30
    balancer.tick(3.0)
    assert loads(balancer) == {"a": (1, 0, 70, 1, prompt + 30)}
    lease.produced += 500  # longer than expected: one more is always to come
    balancer.tick(4.0)
    assert loads(balancer) == {"a": (1, 0, 1, 1, prompt + 530)}
    lease.produced += 5  # never settled
    assert balancer.finish(lease, OK, 5.0)
    assert loads(balancer) == {"a": (0, 0, 0, 0, 0)}
    assert not balancer.finish(lease, OK, 6.0)
    balancer.first_token(lease, 7.0)  # a late callback
    assert loads(balancer) == {"a": (0, 0, 0, 0, 0)}


@pytest.mark.parametrize("start", [0.0, -5.0, 1e9])
def test_the_clocks_zero_is_the_hosts_business(start: float) -> None:
    """Virtual time begins at 0, and a first token may come at that very moment."""
    balancer = fleet("least_pending_tokens", "a")
    lease = place(balancer, now=start)
    balancer.first_token(lease, start)
    balancer.first_token(lease, start)
    assert balancer.backends["a"].decoding == 1
    lease.produced += 3
    balancer.tick(start)
    balancer.finish(lease, OK, start)
    assert loads(balancer) == {"a": (0, 0, 0, 0, 0)}


def test_leases_outlive_their_backend() -> None:
    balancer = fleet("least_pending_tokens", "a", "b")
    leases = [place(balancer, now=1.0) for _ in range(4)]
    gone = balancer.backends["a"]
    balancer.remove("a")
    fresh = join(balancer, "a")
    for lease in leases:
        balancer.first_token(lease, 2.0)
        lease.produced += 5
    balancer.tick(3.0)
    assert gone.inflight == 2
    assert fresh.inflight == 0
    for lease in leases:
        balancer.finish(lease, FAILED, 4.0)
    assert gone.inflight == fresh.inflight == 0
    assert gone.errors == 2
    assert fresh.errors == 0


def test_an_id_is_taken_once() -> None:
    balancer = fleet("round_robin", "a")
    with pytest.raises(ValueError, match="'a'"):
        balancer.add("a")
    with pytest.raises(KeyError):
        balancer.remove("z")
