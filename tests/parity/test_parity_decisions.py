"""What the simulator promises is what the proxy does: one script, both hosts, the same decision log.

The simulator runs a trace of some 300 requests, with shared beginnings and conversations, over five unequal machines of
which one crashes and comes back, one slows down, one freezes, one joins late and one leaves; some clients leave
early. Then the real proxy (clients, exchanges, upstreams, pools, the timer wheel, over transports in memory and
a clock that the test sets) gets the same from outside, as bytes and broken connections at the same times.

Compared, exactly: every call that the two make at the balancer's door, in order, with its time and arguments: arrival
with the request's facts and what was tried, first token, tokens seen at each tick, usage and end, failure, question for
a retry, client gone. And what comes back: the backend, its reason, every candidate's score and terms, what was
expected of the request, the learned slowdowns after each tick.

Not compared: how facts are made from a trace without bodies (the simulator's own are coarser, see docs/parity.md);
where the times come from (the engines are the simulator's: bench/parity.py holds them against a clock); probes and
readings, which are put in at the door, as feeds/ and not the data plane makes them; answers that are not
streamed, answers with 5xx, timeouts and shutdown, which the simulator does not have (tests/faults has them).
"""

from __future__ import annotations

from collections import Counter

import pytest
from parity_log import Row, first_difference
from parity_proxy import Replay
from parity_script import CHAT, COMPLETIONS, FAULTS, MEMBERS, Asked, Scripted, asked, fleet

from fairlead.core import balancer as brain
from fairlead.core.policies.registry import POLICIES, make
from fairlead.proxy import timers
from fairlead.sim.host import Settings, Simulation
from fairlead.sim.trace import FAILED, OK, Trace

FIRST = [m.name for m in MEMBERS if m.name != "fast-2"]  # it joins later

every_policy = pytest.mark.parametrize("policy", POLICIES)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(timers, "monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="module")
def chat() -> list[Asked]:
    return asked(CHAT)


@pytest.fixture(scope="module")
def completions() -> list[Asked]:
    return asked(COMPLETIONS)


def both(script: Scripted, policy: str, clock: list[float], backends: list[str] = FIRST) -> Replay:
    """Run the script in the simulator, then through the proxy."""
    script.run()
    proxy = Replay(script.asked, policy, backends, clock)
    proxy.run(script.log.rows)
    proxy.take_answers()
    return proxy


def counts(rows: list[Row]) -> Counter[str]:
    return Counter(row.said[0] if row.call == "finish" else row.call for row in rows)


@every_policy
def test_both_hosts_decide_alike(policy: str, completions: list[Asked], clock: list[float]) -> None:
    script = Scripted(completions, policy)
    proxy = both(script, policy, clock)
    assert first_difference(script.log.rows, proxy.log.rows) == ""


@every_policy
def test_both_hosts_decide_alike_about_chats(policy: str, chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, policy, seed=2, every_tick=True)
    proxy = Replay(chat, policy, FIRST, clock, seed=2)
    script.run()
    proxy.run(script.log.rows)
    assert first_difference(script.log.rows, proxy.log.rows) == ""


@pytest.mark.parametrize("settings", [Settings(cached_tokens=False), Settings(scrape=0.0), Settings(scrape=1.0)])
def test_both_hosts_decide_alike_with_less_told(settings: Settings, chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "expected_completion", settings=settings)
    proxy = both(script, "expected_completion", clock)
    assert first_difference(script.log.rows, proxy.log.rows) == ""


def test_both_hosts_decide_alike_without_faults(chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "expected_completion", faults=())
    proxy = both(script, "expected_completion", clock, [m.name for m in MEMBERS])
    assert first_difference(script.log.rows, proxy.log.rows) == ""
    assert set(counts(script.log.rows)) == {"assign", "first_token", "ok", "client_gone", "tick", "poll_started",
                                            "poll_result"}  # fmt: skip


@every_policy
def test_the_default_configuration_has_the_simulators_rules(policy: str, clock: list[float]) -> None:
    simulated = Simulation(Trace("none", ()), fleet(()), make(policy)).balancer
    served = Replay((), policy, [m.name for m in MEMBERS], clock).balancer
    assert served.retry_rules == simulated.retry_rules
    for one, other in zip(served.backends.values(), simulated.backends.values(), strict=True):
        assert (one.id, one.models, one.weight, one.max_connections) == (
            other.id, other.models, other.weight, other.max_connections,
        )  # fmt: skip
        assert (one.probes.rise, one.probes.fall) == (other.probes.rise, other.probes.fall)
        assert one.passive.max_fails == other.passive.max_fails
        assert one.passive.fail_timeout == other.passive.fail_timeout
    mine, theirs = vars(served.policy), vars(simulated.policy)
    numbers = {name for name, value in mine.items() if isinstance(value, int | float)}
    assert {name: mine[name] for name in numbers} == {name: theirs[name] for name in numbers}


def test_the_script_holds_every_kind_of_event(completions: list[Asked]) -> None:
    assert len(completions) >= 200
    logs = []
    for policy in ("round_robin", "prefix_hash"):
        script = Scripted(completions, policy)
        script.run()
        logs += script.log.rows
    seen = counts(logs)
    for call in ("assign", "first_token", "ok", "failed", "client_gone", "may_retry", "tick", "probe", "poll_started",
                 "poll_result", "add", "set_draining", "remove", "down", "up"):  # fmt: skip
        assert seen[call] > 0, call
    choices = [row for row in logs if row.call == "assign"]
    assert {len(row.said[1]) for row in choices} >= {0, 1}, "some were tried twice"
    assert len({row.answer[0] for row in choices}) == len(MEMBERS)
    ends = [row for row in logs if row.call == "finish"]
    assert any(row.said[0] == brain.OK and not row.said[3] for row in ends), "one is too long for its engine"
    assert {row.said[2] for row in ends if row.said[0] == brain.FAILED} == {"connect", "upstream_broken"}
    assert any(row.said[1] and row.said[1].cached_tokens for row in ends), "prefixes are found in caches"
    gone = {row.request for row in ends if row.said[0] == brain.CLIENT_GONE}
    started = {row.request for row in logs if row.call == "first_token"}
    assert gone & started
    assert gone - started


def test_clients_get_what_the_simulator_says(chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "least_connections")
    proxy = both(script, "least_connections", clock)
    outcomes = {o.request: o.status for o in script.outcomes if o.request in proxy.answers}
    assert len(outcomes) > 0.9 * len(chat)
    for request, status in outcomes.items():
        code, whole = proxy.answers[request]
        if status == OK:
            assert (code, whole) == (200, True)
        elif status == FAILED:
            assert code == 502 or (code, whole) == (200, False), "refused by us, or visibly cut"
        else:
            assert code in (400, 503)


def test_both_hosts_end_with_nothing_held_and_the_same_learned(chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "expected_completion")
    proxy = both(script, "expected_completion", clock)
    assert not proxy.service.exchanges
    assert not proxy.balancer.ledger.leases
    assert not script.balancer.ledger.leases
    assert all(pool.open == len(pool.idle) for pool in proxy.service.pools.values())
    assert proxy.balancer.tokens.snapshot() == script.balancer.tokens.snapshot()
    for id, backend in script.balancer.backends.items():
        other = proxy.balancer.backends[id]
        assert (backend.placed, backend.answered, backend.errors) == (other.placed, other.answered, other.errors)
        assert list(backend.shelf.blocks.items()) == list(other.shelf.blocks.items())


# --- the comparison can fail ---------------------------------------------------------------------------------


def test_another_seed_is_seen_where_chance_decides(chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "random", seed=1)
    script.run()
    proxy = Replay(chat, "random", FIRST, clock, seed=2)
    proxy.run(script.log.rows)
    assert first_difference(script.log.rows, proxy.log.rows).startswith("row ")


@pytest.mark.parametrize("faults", [FAULTS, ()])
def test_a_token_not_counted_is_seen(faults: tuple[str, ...], chat: list[Asked], clock: list[float]) -> None:
    script = Scripted(chat, "least_pending_tokens", faults=faults)
    script._openings = 0  # as if the proxy did not count the event for the role
    proxy = both(script, "least_pending_tokens", clock, FIRST if faults else [m.name for m in MEMBERS])
    assert "Row(call='tick'" in first_difference(script.log.rows, proxy.log.rows)
