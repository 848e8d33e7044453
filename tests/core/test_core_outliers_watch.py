"""Frozen and slow backends: what is found by watching tokens, and what must not be mistaken for it."""

from __future__ import annotations

from random import Random

import pytest
from core_fleet import chat, fleet, place, spread
from core_virtual import Done, Virtual, asks, shares

from fairlead.core.balancer import CLIENT_GONE, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.health.outliers import Outliers
from fairlead.core.health.passive import NO_PROGRESS, SLOW, OutlierRules
from fairlead.core.model import Kind
from fairlead.core.policies.registry import make
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import PROFILES
from fairlead.sim.fleet import Fleet, Member, parse_fault
from fairlead.sim.host import Simulation
from fairlead.sim.trace import Request, Trace


class Scene:
    """Two backends with streams, ticked ten times a second; `frozen` ones give no token."""

    def __init__(self, count: int = 3, ids: str = "ab", rules: OutlierRules | None = None) -> None:
        self.balancer: Balancer = fleet("round_robin", *ids, outliers=rules or OutlierRules())
        self.now, self.frozen = 0.0, set[str]()
        self.leases = [place(self.balancer, now=0.0) for _ in range(count * len(ids))]
        for lease in self.leases:
            self.balancer.first_token(lease, 0.1)

    def of(self, id: str) -> list[Lease]:
        return [lease for lease in self.leases if lease.backend.id == id]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for lease in self.leases:
                if lease.open and lease.backend.id not in self.frozen and not lease.paused:
                    lease.produced += 1
            self.balancer.tick(self.now)

    def out(self) -> set[str]:
        return {b.id for b in self.balancer.backends.values() if b.passive.ejected(self.now)}


def test_a_backend_that_gives_no_token_while_others_do_is_ejected() -> None:
    """Case 48."""
    scene = Scene()
    scene.run(5)
    scene.frozen = {"a"}
    scene.run(9)
    assert scene.out() == set()
    scene.run(3)
    assert scene.out() == {"a"}
    passive = scene.balancer.backends["a"].passive
    assert passive.cause == NO_PROGRESS and passive.reason == "no token for 10 s"
    assert passive.ejections == {"failures": 0, "no_progress": 1, "slow": 0}
    assert all(lease.open for lease in scene.leases), "nothing that runs is killed"


def test_a_frozen_backend_that_gives_a_token_again_is_tried_at_once() -> None:
    scene = Scene()
    scene.frozen = {"a"}
    scene.run(15)
    scene.frozen = set()
    scene.run(1)
    assert scene.out() == set()
    passive = scene.balancer.backends["a"].passive
    assert passive.on_trial(scene.now)
    trial = place(scene.balancer, now=scene.now)
    assert trial.backend.id == "a"
    scene.balancer.finish(trial, OK, scene.now + 1)
    assert passive.ramping


def test_while_it_hangs_on_to_requests_no_other_is_sacrificed_as_a_trial() -> None:
    scene = Scene()
    scene.frozen = {"a"}
    scene.run(90)
    assert scene.out() == {"a"}
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, scene.now)
    scene.run(3)
    assert place(scene.balancer, now=scene.now).backend.id == "a", "now only a trial can tell"


def test_a_trial_that_hangs_ends_in_a_longer_rest() -> None:
    scene = Scene()
    scene.frozen = {"a"}
    scene.run(12)
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, scene.now)
    scene.run(35)
    assert place(scene.balancer, now=scene.now).backend.id == "a"
    scene.run(12)
    passive = scene.balancer.backends["a"].passive
    assert scene.out() == {"a"} and passive.streak == 2 and passive.rest_seconds >= 60.0


def test_an_answer_that_needs_no_engine_is_no_proof() -> None:
    scene = Scene()
    scene.frozen = {"a"}
    scene.run(12)
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, scene.now)
    scene.run(35)
    cheap = [place(scene.balancer, chat(kind=Kind.CHEAP), scene.now) for _ in range(3)]
    assert set(spread(cheap)) == {"b"}
    trial = place(scene.balancer, now=scene.now)
    scene.balancer.finish(trial, OK, scene.now, worked=False)  # a 4xx
    assert scene.balancer.backends["a"].passive.resting


def hurried(scene: Scene, seconds: int, overlap: float) -> None:
    """Clients that ask every five seconds and wait for five and `overlap`."""
    waiting: Lease | None = None
    for _ in range(0, seconds, 5):
        asked = [place(scene.balancer, now=scene.now) for _ in range(2)]
        if overlap:
            scene.run(overlap)
        for lease in asked:
            if lease.backend.id == "b":
                scene.balancer.finish(lease, OK, scene.now)
        if waiting is not None:
            scene.balancer.finish(waiting, CLIENT_GONE, scene.now)
        waiting = next((lease for lease in asked if lease.backend.id == "a"), None)
        scene.run(5 - overlap)
        if not overlap and waiting is not None:
            scene.balancer.finish(waiting, CLIENT_GONE, scene.now)
            waiting = None
            scene.run(1)


@pytest.mark.parametrize(("overlap", "out"), [(1.0, {"a"}), (0.0, set[str]())])
def test_clients_that_give_up_early_do_not_hide_that_it_is_frozen(overlap: float, out: set[str]) -> None:
    """While somebody waits all the time; with pauses between them nobody knows whether it was just long at work."""
    scene = Scene(count=0)
    scene.leases = [place(scene.balancer, now=0.0) for _ in range(2)]
    for lease in scene.leases:
        scene.balancer.first_token(lease, 0.1)
    (a,) = scene.of("a")
    scene.balancer.finish(a, OK, 0.2)
    scene.frozen = {"a"}
    hurried(scene, 30, overlap)
    assert scene.out() == out


def test_when_nobody_gives_tokens_nobody_is_blamed() -> None:
    scene = Scene()
    scene.frozen = {"a", "b"}
    scene.run(60)
    assert scene.out() == set()


def test_a_backend_alone_is_not_ejected() -> None:
    scene = Scene(ids="a")
    scene.frozen = {"a"}
    scene.run(60)
    assert scene.out() == set()


def test_a_client_that_takes_nothing_is_not_the_engines_fault() -> None:
    scene = Scene()
    for lease in scene.of("a"):
        lease.paused = True
    scene.run(60)
    assert scene.out() == set()
    scene.of("a")[0].paused = False
    scene.frozen = {"a"}
    scene.run(15)
    assert scene.out() == {"a"}


def test_time_in_which_we_stood_still_ourselves_does_not_count() -> None:
    """Case 104: on resume no mass ejection."""
    scene = Scene()
    scene.run(5)
    scene.now += 30.0
    scene.leases = scene.of("b")  # its bytes are read first
    scene.run(1)
    assert scene.out() == set()
    scene.run(15)
    assert scene.out() == {"a"}, "but then it does"


def test_a_head_that_waits_counts_and_a_long_prompt_has_its_time() -> None:
    scene = Scene()
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, 0.5)
    scene.leases = scene.of("b")
    place(scene.balancer, chat(400), 1.0, tried=["b"])
    scene.run(15)
    assert scene.out() == {"a"}

    scene = Scene()
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, 0.5)
    scene.leases = scene.of("b")
    place(scene.balancer, chat(800_000), 1.0, tried=["b"])  # two hundred thousand tokens
    scene.run(30)
    assert scene.out() == set()


def test_an_answer_in_one_piece_has_the_time_of_a_long_one() -> None:
    scene = Scene()
    for lease in scene.of("a"):
        scene.balancer.finish(lease, CLIENT_GONE, 0.5)
    scene.leases = scene.of("b")
    place(scene.balancer, chat(400, stream=False, max_tokens=1000), 1.0, tried=["b"])
    scene.run(20)
    assert scene.out() == set()
    scene.run(60)
    assert scene.out() == {"a"}


@pytest.mark.parametrize("rules", [OutlierRules(no_progress=0.0), OutlierRules(max_ejected=0.0)])
def test_it_can_be_turned_off(rules: OutlierRules) -> None:
    scene = Scene(rules=rules)
    scene.frozen = {"a"}
    scene.run(120)
    assert scene.out() == set()


# --- emulated engines -----------------------------------------------------------------------------------------


def late_first_tokens(done: list[Done]) -> float:
    """p99 of the time to the first token of the others, from ten seconds after the slow one began to be slow."""
    seconds = sorted(one.first - one.arrived for one in done if one.backend != "a" and 30.0 <= one.arrived < 95.0)
    return seconds[int(0.99 * len(seconds))]


@pytest.mark.parametrize("policy", ["expected_completion", "least_pending_tokens", "least_connections"])
@pytest.mark.parametrize("seed", [1, 2])
def test_case_49_a_backend_ten_times_slower_is_not_ejected_but_gets_little(policy: str, seed: int) -> None:
    """Speeds move the traffic; the ejection of what is slow is off unless asked for."""

    def world(ids: str) -> Virtual:
        return Virtual(fleet(policy, *ids), {id: Engine(PROFILES["h100-8b"]) for id in ids})

    four = world("abcd")
    four.at[20.0] = lambda: four.engines["a"].set_slowdown(10.0, four.engines["a"].clock)
    done = four.open(asks(3000, seed), 30.0, seed)
    assert sum(four.balancer.backends["a"].passive.ejections.values()) == 0
    assert shares(done, 30.0, 95.0).get("a", 0.0) <= 0.25 * 0.25
    alone = world("bcd").open(asks(3000, seed), 30.0, seed)
    assert late_first_tokens(done) <= 1.3 * late_first_tokens(alone)


def slow_scene(factor: float, others: tuple[float, ...] = (1.0, 1.0, 1.0)) -> set[str]:
    balancer = fleet("round_robin", *"abcd")
    outliers, backends = Outliers(OutlierRules(outlier_factor=factor)), balancer.backends
    for id, slowdown in zip("abcd", (8.0, *others), strict=True):
        backends[id].slowdown = slowdown
    changes = [outliers.look(backends.values(), (), second / 2, Random(1)) for second in range(60)]
    assert not any(changes[:10]), "not at once"
    return {b.id for b in backends.values() if b.passive.cause == SLOW}


def test_what_is_too_slow_for_long_is_ejected_where_that_is_asked_for() -> None:
    assert slow_scene(5.0) == {"a"}
    assert slow_scene(10.0) == set()
    assert slow_scene(0.0) == set()
    assert slow_scene(5.0, (8.0, 8.0, 8.0)) == set(), "measured against the others"


# --- the simulator shares it ----------------------------------------------------------------------------------


def test_a_frozen_engine_is_found_in_the_simulator_and_comes_back() -> None:
    requests = [Request(i / 20, 400, 60) for i in range(4000)]
    members = tuple(Member(id, PROFILES["h100-8b"]) for id in "abcd")
    machines = Fleet("four", members, (parse_fault("freeze@20-80:a"),))
    simulation = Simulation(Trace("t", tuple(requests)), machines, make("round_robin"))
    ended = simulation.run()
    frozen = [b for b in simulation.balancer.backends.values() if b.passive.ejections[NO_PROGRESS]]
    assert len(frozen) == 1
    late = [o for o in ended.outcomes if o.sent > 35.0 and o.sent < 79.0]
    assert frozen[0].id not in {o.backend for o in late}
    last = [o.backend for o in ended.outcomes if o.sent > 170.0]
    assert last.count(frozen[0].id) / len(last) == pytest.approx(0.25, abs=0.03)
