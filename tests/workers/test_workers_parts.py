"""The small parts between workers: places in shared memory, lines to siblings, sockets, the channel."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from peers import run, until

from fairlead.config.schema import Address, Listen
from fairlead.control.fleet import Refused
from fairlead.core.balancer import OK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.remote import SharedBalancer
from fairlead.core.model import Facts, Kind
from fairlead.core.policies.registry import make
from fairlead.workers import exchange, sockets
from fairlead.workers.channel import Channel, Gone, as_sockets, send_sockets, take_descriptors
from fairlead.workers.desk import Desk
from fairlead.workers.exchange import Exchange
from fairlead.workers.places import Registry, Rows, Table

# --- places --------------------------------------------------------------------------------------------------


def test_places_of_all_workers_are_counted_and_those_of_a_dead_one_are_emptied() -> None:
    table, rows = Table.make(3), Rows()
    rows.number(["a", "b"])
    rows.number(["b", "c"])
    assert rows.rows == {"a": 0, "b": 1, "c": 2}
    registries = [Registry(table, worker, rows.rows) for worker in range(3)]
    for registry in registries:
        for id in ("a", "c", "c"):
            places = registry.of(id)
            assert places is not None
            places.take()
    counted = registries[1].of("c"), registries[2].of("b"), registries[0].of("unheard")
    assert counted[0] is not None and counted[1] is not None and counted[2] is None
    assert (counted[0].taken(), counted[1].taken()) == (6, 0)
    table.empty(0, len(rows.rows))
    assert counted[0].taken() == 4
    counted[0].give()
    assert counted[0].taken() == 3
    table.close()


# Takes places under a limit of 2 as fast as it goes; ends with status 1 if there was ever a third.
CROWD = """
import os, sys
from fairlead.workers.places import Registry, Table
registry = Registry(Table(int(sys.argv[1]), 4), int(sys.argv[2]), {"a": 0})
places = registry.of("a")
sys.stdin.readline()
for _ in range(500):
    with registry:
        had = places.taken() < 2
        os.sched_yield()  # the moment in which another one would look, too
        if had:
            places.take()
    if places.taken() > 2:
        sys.exit(1)
    if had:
        places.give()
"""


def test_no_two_processes_take_the_last_place_at_once() -> None:
    table = Table.make(4)
    number = table.descriptor
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD, str(number), str(worker)], pass_fds=[number], stdin=subprocess.PIPE
        )
        for worker in range(4)
    ]
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    for process in crowd:
        process.wait(60)
    assert [process.returncode for process in crowd] == [0] * 4
    assert sum(table.cells[:4]) == 0
    table.close()


# --- lines ---------------------------------------------------------------------------------------------------


def balancer(seed: int) -> SharedBalancer:
    made = SharedBalancer(make("least_connections"), Random(seed))
    made.add("a", models=frozenset({"m"}))
    made.probe("a", True)
    return made


class Worker:
    """A balancer with its exchange, in this process."""

    def __init__(self, index: int) -> None:
        self.index, self.balancer = index, balancer(index)
        self.exchange = Exchange(self.balancer, asyncio.get_running_loop())
        self.table = Table.make(1)
        self.balancer.share(self.exchange.tell, Registry(self.table, 0, {}), (1_000,))

    def place(self) -> Lease:
        lease = self.balancer.assign(Facts(Kind.CHAT, "m", prompt_bytes=100), 1.0)
        assert isinstance(lease, Lease)
        return lease

    @property
    def inflight(self) -> int:
        return self.balancer.backends["a"].inflight

    async def meet(self, other: Worker) -> None:
        ends = socket.socketpair()
        await self.exchange.join(other.index, ends[0])
        await other.exchange.join(self.index, ends[1])

    def close(self) -> None:
        self.exchange.close()
        self.table.close()


def test_leases_are_told_to_all_siblings_and_a_newcomer_is_told_what_is_open() -> None:
    async def body() -> None:
        workers = [Worker(index) for index in range(3)]
        first = workers[0].place()
        await workers[0].meet(workers[1])
        await until(lambda: workers[1].inflight == 1, "the second knows of it")
        second = workers[1].place()
        await workers[2].meet(workers[0])
        await workers[2].meet(workers[1])
        await until(lambda: [w.inflight for w in workers] == [2, 2, 2], "all know of both")
        workers[0].balancer.finish(first, OK, 2.0)
        workers[1].balancer.finish(second, OK, 2.0)
        await until(lambda: [w.inflight for w in workers] == [0, 0, 0], "and of their ends")
        for worker in workers:
            worker.close()

    run(body)


def test_what_is_told_once_is_not_told_again_with_the_beginning_of_a_line() -> None:
    async def body() -> None:
        one, other, third = (Worker(index) for index in range(3))
        await one.meet(other)
        one.place()  # its batch waits
        await one.meet(third)
        await until(lambda: (other.inflight, third.inflight) == (1, 1), "both know of it")
        for _ in range(5):
            one.place()
        await until(lambda: (other.inflight, third.inflight) == (6, 6), "and of the next ones")
        for worker in (one, other, third):
            worker.close()

    run(body)


def test_a_sibling_that_dies_takes_its_leases_with_it() -> None:
    async def body() -> None:
        one, other = Worker(0), Worker(1)
        await one.meet(other)
        other.place()
        await until(lambda: one.inflight == 1, "it is known")
        other.close()
        await until(lambda: one.inflight == 0, "nobody works on it any more")
        assert one.exchange.lines == {}
        one.close()

    run(body)


def test_a_sibling_that_does_not_read_blocks_nobody_and_is_told_anew_when_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "MAX_WAITING", 20_000)

    async def body() -> None:
        one, other = Worker(0), Worker(1)
        await one.meet(other)
        await until(lambda: one.index in other.exchange.lines, "they have met")
        slow, line = other.exchange.lines[0], one.exchange.lines[1]
        assert slow._transport is not None
        slow._transport.pause_reading()
        leases: list[Lease] = []
        while not line.lost:
            leases.append(one.place())
            one.exchange.flush()
        for lease in leases[:-1]:
            one.balancer.finish(lease, OK, 2.0)
        one.exchange.flush()
        assert other.inflight < len(leases)
        slow._transport.resume_reading()
        assert line._transport is not None
        transport = line._transport
        await until(lambda: transport.get_write_buffer_size() == 0, "it has read what it had")
        one.place()
        await until(lambda: other.inflight == 2, "it knows what is open now, and nothing else")
        assert not line.behind
        for worker in (one, other):
            worker.close()

    run(body)


# --- sockets -------------------------------------------------------------------------------------------------


def ports(found: Sequence[socket.socket]) -> set[int]:
    return {sock.getsockname()[1] for sock in found}


def test_an_address_has_a_socket_for_each_worker_all_on_one_port() -> None:
    async def body() -> None:
        made = await sockets.open_address(Address("127.0.0.1", 0), 3)
        assert (len(made), len(ports(made))) == (3, 1)
        parts = [sockets.share({"x": made}, worker, 3)["x"] for worker in range(3)]
        assert [len(part) for part in parts] == [1, 1, 1]
        assert {sock for part in parts for sock in part} == set(made)
        with pytest.raises(OSError):
            await sockets.open_address(Address("127.0.0.1", ports(made).pop()), 2)
        sockets.close({"x": made})

    run(body)


@pytest.mark.parametrize(("there", "workers", "shares"), [(5, 2, [3, 2]), (1, 3, [1, 1, 1]), (2, 2, [1, 1])])
def test_sockets_that_were_taken_over_are_dealt_out_and_none_is_left(
    there: int, workers: int, shares: list[int]
) -> None:
    async def body() -> None:
        made = await sockets.open_address(Address("127.0.0.1", 0), there)
        found = sockets.complete(made, workers)
        parts = [sockets.share({"x": found}, worker, workers)["x"] for worker in range(workers)]
        assert [len(part) for part in parts] == shares
        assert {sock for part in parts for sock in part} == set(found)
        assert set(made) <= set(found)
        sockets.close({"x": found})

    run(body)


def test_a_socket_that_cannot_be_bound_again_is_shared_by_all() -> None:
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        found = sockets.complete([plain], 3)
        assert [sockets.share({"x": found}, worker, 3)["x"] for worker in range(3)] == [[plain]] * 3


def test_the_file_of_a_socket_stays_where_another_process_listens_there_by_now(tmp_path: Path) -> None:
    async def body() -> None:
        address = Address("", 0, str(tmp_path / "s"))
        ours = {str(address): await sockets.open_address(address, 2)}
        sockets.close(ours)  # as workers do when they drain
        [other] = await sockets.open_address(address, 2)  # the next Fairlead, while this one drains
        sockets.close(ours, [Listen(address=address)])
        assert os.path.exists(address.path)  # noqa: ASYNC240
        other.close()
        sockets.close(ours, [Listen(address=address)])
        assert not os.path.exists(address.path)  # noqa: ASYNC240

    run(body)


# --- the channel ---------------------------------------------------------------------------------------------


def test_questions_are_answered_refused_or_fail_with_the_other_end() -> None:
    async def body() -> None:
        async def answer(what: str, arguments: tuple[Any, ...]) -> Any:
            if what == "refuse":
                raise Refused(409, "not now", [{"path": "x"}])
            if what == "hang":
                await asyncio.Event().wait()
            return [what, *arguments]

        ends = socket.socketpair()
        lost: list[str] = []
        asking = await Channel.over(ends[0], answer, lambda: lost.append("asking"))
        answering = await Channel.over(ends[1], answer, lambda: lost.append("answering"))
        assert await asking.ask("echo", 1, b"two" * 200_000) == ["echo", 1, b"two" * 200_000]
        assert await asyncio.gather(*(asking.ask("n", n) for n in range(50))) == [["n", n] for n in range(50)]
        with pytest.raises(Refused) as refused:
            await asking.ask("refuse")
        assert (refused.value.status, str(refused.value), refused.value.problems) == (409, "not now", [{"path": "x"}])
        with pytest.raises(TimeoutError):
            await asking.ask("hang", seconds=0.01)
        hanging = asyncio.ensure_future(asking.ask("hang"))
        await asyncio.sleep(0)
        answering.close()
        with pytest.raises(Gone):
            await hanging
        with pytest.raises(Gone):
            await asking.ask("echo")
        await until(lambda: sorted(lost) == ["answering", "asking"], "both know that it is over")
        for task in answering._tasks:
            task.cancel()

    run(body)


class Unreadable:
    """What an older program has and this one has not any more."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_what_cannot_be_read_fails_alone() -> None:
    async def body() -> None:
        async def answer(what: str, arguments: tuple[Any, ...]) -> Any:
            return Unreadable() if what == "odd" else what

        ends = socket.socketpair()
        asking, answering = [await Channel.over(end, answer, lambda: None) for end in ends]
        with pytest.raises(Gone, match="was the program replaced"):
            await asking.ask("odd")
        with pytest.raises(Gone, match="was the program replaced"):
            await asking.ask("echo", Unreadable())
        assert await asking.ask("echo") == "echo"
        asking.close()
        answering.close()

    run(body)


def test_many_sockets_are_handed_over_in_their_order() -> None:
    ends = socket.socketpair()
    sent = [socket.socket() for _ in range(450)]
    for number, sock in enumerate(sent):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096 + number * 2)
    marks = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in sent]
    send_sockets(ends[0], sent)
    found = as_sockets(take_descriptors(ends[1], 450), [("x", 449), ("y", 1)])
    got = [*found["x"], *found["y"]]
    assert [sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in got] == marks
    for sock in (*sent, *got, *ends):
        sock.close()


# --- the desk -------------------------------------------------------------------------------------------------


class SlowReloader:
    """Stands for an App and its reloader: a first half that takes as long as it is let."""

    def __init__(self) -> None:
        self.go, self.dropped = asyncio.Event(), list[object]()

    @property
    def reloader(self) -> SlowReloader:
        return self

    async def prepare(self, step: Any, given: Any) -> object:
        await self.go.wait()
        return step

    async def drop(self, ready: object) -> None:
        self.dropped.append(ready)


def test_a_first_half_that_comes_after_it_was_given_up_is_dropped_and_never_committed() -> None:
    async def body() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            desk, app = Desk(ours), SlowReloader()
            desk._app, desk._registry = app, Registry(Table.make(1), 0, {})  # type: ignore[assignment]
            late = asyncio.ensure_future(desk.on_prepare("first", {}, ()))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            await desk.on_drop()
            app.go.set()
            with pytest.raises(Refused, match="given up"):
                await late
            assert app.dropped == ["first"]
            await desk.on_prepare("second", {}, ())  # type: ignore[arg-type]
            assert str(desk._ready) == "second"

    run(body)
