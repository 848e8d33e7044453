"""The process that carries no traffic: it holds the sockets, keeps N workers running, and speaks for all of them.

Rule 1: the first start is whole or not at all; later a worker that dies is replaced at once, and with growing pauses
when it dies again and again.
Rule 2: listening sockets stay open here, so that nobody is refused while a worker is replaced.
Rule 3: a change is prepared in all workers, then made in all of them; when one refuses, in none. A worker that dies
meanwhile comes back with the configuration that is in force then.
Rule 4: nothing waits for a worker without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from fairlead.config import fleet
from fairlead.config.build import Bound, StartError, open_token, url_of
from fairlead.config.changes import Step
from fairlead.config.parts import Read
from fairlead.config.problems import Problem
from fairlead.config.schema import Config, Listen, Policy, Shadow
from fairlead.control.admin import Admin
from fairlead.control.fleet import Refused
from fairlead.control.takeover import Offered
from fairlead.proxy.listener import open_tcp, why_not
from fairlead.proxy.sockets import raise_descriptor_limit
from fairlead.workers import sockets
from fairlead.workers.channel import Gone
from fairlead.workers.desk import Start
from fairlead.workers.member import Member
from fairlead.workers.places import Rows, Table
from fairlead.workers.whole import Orders, Whole, WholeSwitching

log = logging.getLogger("fairlead")

T = TypeVar("T")

START_SECONDS: Final = 60.0  # for a worker to begin
CHANGE_SECONDS: Final = 30.0  # for each half of a change
STEADY_SECONDS: Final = 10.0  # who lives so long is no reason to wait before the next
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # before a worker is replaced that died young
END: Final = "end"  # name of tasks that wait for a worker's end
LAST_SECONDS: Final = 5.0  # beyond the drain, until who has not ended is killed


class Supervisor:
    """Several workers that look like one Fairlead. Make it inside a running event loop, then `start`, later `stop`."""

    def __init__(self, config: Config, *, reread: Read | None = None, source: str | None = None) -> None:
        self.config = config
        self.workers = config.workers
        self.clock = monotonic
        self.members: dict[int, Member] = {}  # those that serve
        self.restarts = 0
        self.sockets: sockets.Sockets = {}  # that are listened on, by address
        self.reloader = Orders(self, reread, source)
        self.whole = self.views = Whole(self)
        self.switching = WholeSwitching(self)
        self.draining: set[str] = set()  # backends
        self._started = self.stopping = False
        self._pseudonym = b"fairlead-" + os.urandom(6).hex().encode()
        self._rows = Rows()
        self._table = Table.make(config.workers)
        self._deaths = [0] * config.workers  # in a row
        self._steady = asyncio.Lock()  # held while workers join, and while a change is made
        self._tasks: set[asyncio.Task[Any]] = set()
        self._born: set[Member] = set()
        self._admin: Admin | None = None
        self._foreign: set[str] = set()  # addresses whose socket files are not ours to remove

    # --- life ------------------------------------------------------------------------------------------------

    async def start(self, given: sockets.Sockets | None = None) -> Bound:
        """Start everything. StartError. `given` are listening sockets that are there already."""
        raise_descriptor_limit()
        config = self.config
        self._admin = await self._take_admin((given or {}).get("admin"))  # before anybody is served
        for listen in config.listen:
            address = str(listen.address)
            try:
                if given and address in given:
                    self._foreign.add(address)
                    self.sockets[address] = sockets.complete(given[address], self.workers)
                else:
                    self.sockets[address] = await sockets.open_address(listen.address, self.workers)
            except OSError as problem:
                raise StartError(f"listen {address}: {why_not(problem, listen.address.path, 'listen')}") from None
        self._rows.number(backend.name for backend in config.backends)
        try:
            members = await asyncio.gather(*(self._spawn(index) for index in range(self.workers)))
            bound = await asyncio.gather(*(self._begin(member) for member in members))
        except (Gone, Refused, OSError) as problem:
            raise StartError(str(problem) or "a worker did not start in time") from None
        await self._connect(list(self.members.values()))
        if len(self.members) < self.workers:  # until here nobody is replaced
            raise StartError("a worker died as it began")
        self._started = True
        self.whole.changed(config)
        self._task(self.whole.watch())
        return Bound(bound[0], url_of(*await self._admin.listen(self._admin.sockets), tls=False))

    async def _take_admin(self, given: list[socket.socket] | None) -> Admin:
        address, token = self.config.admin, open_token(self.config)
        admin = Admin(self.reloader, self.whole, self.whole, self.switching, self.whole.ready, token)
        try:
            admin.sockets = given or await open_tcp(asyncio.get_running_loop(), address.host, address.port)
        except OSError as problem:
            raise StartError(f"admin {address}: {why_not(problem, address.path, 'admin')}") from None
        return admin

    async def stop(self, drain: float | None = None) -> int:
        """Drain and let go of everything; the number of requests that had to be broken off."""
        self.stopping = True
        for task in [task for task in self._tasks if task.get_name() != END]:
            task.cancel()  # nobody is replaced any more, nor looked at
            await asyncio.gather(task, return_exceptions=True)
        most = (self.config.drain if drain is None else drain) + self.config.drain_delay + LAST_SECONDS
        own = [listen for listen in self.config.listen if str(listen.address) not in self._foreign]
        sockets.close(self.sockets)  # the workers have theirs, and stop listening by themselves
        left = await self._all(list(self._born), lambda member: member.ask("stop", drain, seconds=most))
        sockets.close(self.sockets, own)  # the files of Unix sockets, where nobody listens now
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_SECONDS)
        for member in list(self._born):
            member.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.whole.alerting.close()
        if self._admin is not None:
            await self._admin.close()
        self._table.close()
        return sum(left.values())

    def own_files(self, addresses: Collection[str]) -> None:
        """The socket files of these are ours to remove from now on, though others have made them."""
        self._foreign.difference_update(addresses)

    def offered(self) -> Offered:
        """What a process that takes over gets."""
        files = [address for address in self.sockets if address.startswith("unix:") and address not in self._foreign]
        admin = self._admin.sockets if self._admin is not None else []
        return Offered({**self.sockets, "admin": admin}, files)

    async def release(self) -> None:
        """Accept no more: another process has taken over. The workers stop with `stop`."""
        self._foreign.update(self.sockets)
        if self._admin is not None:
            await self._admin.release()

    def break_off(self) -> None:
        """No more patience with requests that still run."""
        for member in list(self._born):
            self._task(self._tolerant(member.ask("break_off")))

    def reopen_logs(self) -> None:
        """Files of logs may have been moved away: all workers begin them again under their names."""
        for member in list(self.members.values()):
            self._task(self._tolerant(member.ask("reopen")))

    async def running(self) -> int:
        """How many requests are under way."""
        return sum((await self.ask_all("running")).values())

    # --- workers ---------------------------------------------------------------------------------------------

    async def _spawn(self, index: int) -> Member:
        member = await Member.spawn(index, self._lost)
        self._born.add(member)
        self._task(self._end(member), END)
        return member

    async def _begin(self, member: Member, known: dict[str, Any] | None = None) -> tuple[str, ...]:
        """Let it serve; its URLs. Gone, Refused, TimeoutError."""
        mine = sockets.share(self.sockets, member.index, self.workers)
        start = Start(
            worker=member.index,
            workers=self.workers,
            config=own_config(self.config, member.index),
            version=self.reloader.versions.number,
            policies=(self.switching.policy, self.switching.shadow),
            draining=tuple(self.draining),
            pseudonym=self._pseudonym,
            rows=dict(self._rows.rows),
            sockets=tuple((address, len(each)) for address, each in mine.items()),
            known=known or {},
        )
        handed: list[socket.socket | int] = [self._table.descriptor, *(sock for each in mine.values() for sock in each)]
        urls: tuple[str, ...] = await member.ask("start", start, sockets=handed, seconds=START_SECONDS)
        if member.is_lost:
            raise Gone("it died as it began")
        self.members[member.index] = member
        return urls

    async def _connect(self, newcomers: Sequence[Member]) -> None:
        """Lines between the newcomers and all others."""
        asked: list[Awaitable[None]] = []
        new = {member.index for member in newcomers}
        for member in newcomers:
            others = [other for other in self.members.values() if other.index not in new or other.index < member.index]
            asked += [self._line(member, other) for other in others]
        await asyncio.gather(*asked)

    async def _line(self, one: Member, other: Member) -> None:
        ends = socket.socketpair()
        try:
            await asyncio.gather(
                self._tolerant(one.ask("peer", other.index, sockets=ends[:1])),
                self._tolerant(other.ask("peer", one.index, sockets=ends[1:])),
            )
        finally:
            for end in ends:
                end.close()

    def _lost(self, member: Member) -> None:
        """Its channel broke: it is gone, or as good as."""
        member.is_lost = True
        if self.members.get(member.index) is member:
            del self.members[member.index]
            self.whole.died(member.index)
        if not self.stopping:
            member.kill()

    async def _end(self, member: Member) -> None:
        """Wait for its end, and replace it if nobody wanted that."""
        status = await member.gone()
        self._lost(member)
        self._born.discard(member)
        self._table.empty(member.index, len(self._rows.rows))
        if self._started and not self.stopping:
            self._task(self._replace(member, status))

    async def _replace(self, member: Member, status: int) -> None:
        index = member.index
        self._deaths[index] = 0 if self.clock() - member.began > STEADY_SECONDS else self._deaths[index] + 1
        pause = min(FIRST_PAUSE * 2 ** (self._deaths[index] - 2), LONGEST_PAUSE) if self._deaths[index] > 1 else 0.0
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        again = f"; the next starts in {pause:g} s" if pause else ""
        log.error("worker %d (process %d) was %s%s", index + 1, member.process.pid, how, again)
        self.restarts += 1
        new = await self._spawn_after(pause, index)
        try:
            async with self._steady:
                await self._begin(new, await self._known())
                await self._connect([new])
        except (Gone, Refused, OSError) as problem:
            log.error("worker %d did not start: %s", index + 1, problem or "it took too long")
            new.kill()  # whose end is waited for, and answered by the next
        else:
            log.info("worker %d serves again (process %d)", index + 1, new.process.pid)

    async def _spawn_after(self, pause: float, index: int) -> Member:
        """A new process, however long the system has no room for one."""
        while True:
            await asyncio.sleep(pause)
            try:
                return await self._spawn(index)
            except OSError as problem:
                pause = LONGEST_PAUSE
                log.error("worker %d cannot be started, and is tried again: %s", index + 1, problem.strerror)

    async def _known(self) -> dict[str, Any]:
        """What one of the others knows of the backends."""
        for member in list(self.members.values()):
            with contextlib.suppress(Gone, Refused, TimeoutError):
                found: dict[str, Any] = await member.ask("known", seconds=0.5)
                return found
        return {}

    # --- asking ----------------------------------------------------------------------------------------------

    async def ask_all(self, what: str, *arguments: Any) -> dict[int, Any]:
        """What each worker that serves answers, in their order; who does not answer is left out."""
        members = [self.members[index] for index in sorted(self.members)]
        return await self._all(members, lambda member: member.ask(what, *arguments))

    async def _all(self, members: Sequence[Member], ask: Callable[[Member], Awaitable[T]]) -> dict[int, T]:
        answers = await asyncio.gather(*(ask(member) for member in members), return_exceptions=True)
        found: dict[int, T] = {}
        for member, answer in zip(members, answers, strict=True):
            if not isinstance(answer, BaseException):
                found[member.index] = answer
            elif not isinstance(answer, Gone | Refused | TimeoutError):
                raise answer
        return found

    async def _tolerant(self, asked: Awaitable[object]) -> None:
        with contextlib.suppress(Gone, Refused, TimeoutError):
            await asked

    def _task(self, work: Any, name: str = "") -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- changes ---------------------------------------------------------------------------------------------

    async def apply(self, step: Step) -> int:
        """Make a change in all workers; how many requests run on a backend that leaves. Refused."""
        if self.stopping:
            raise Refused(409, "it is about to stop: nothing is changed any more")
        async with self._steady:
            opened = await self._open(step.config.listen)
            try:
                self._rows.number(backend.name for backend in step.config.backends)
                await self._prepare(step, opened)
            except BaseException:
                sockets.close(opened, step.config.listen)
                raise
            return await self._commit(step, opened)

    async def _open(self, listens: Sequence[Listen]) -> sockets.Sockets:
        """Sockets for addresses that are new. Refused."""
        opened: sockets.Sockets = {}
        for index, listen in enumerate(listens):
            address = str(listen.address)
            if address in self.sockets or address in opened:
                continue
            try:
                opened[address] = await sockets.open_address(listen.address, self.workers)
            except OSError as problem:
                sockets.close(opened, listens)
                why = why_not(problem, listen.address.path, "listen")
                rows = fleet.as_rows([Problem(source="", path=f"listen[{index}].address", message=f"{address}: {why}")])
                raise Refused(400, "what the file asks for cannot be had: nothing was changed", rows) from None
        return opened

    async def _prepare(self, step: Step, opened: sockets.Sockets) -> None:
        members = list(self.members.values())

        async def prepare(member: Member) -> None:
            mine = sockets.share(opened, member.index, self.workers)
            counts = tuple((address, len(each)) for address, each in mine.items())
            handed = [sock for each in mine.values() for sock in each]
            own = dataclasses.replace(step, config=own_config(step.config, member.index))
            rows = dict(self._rows.rows)
            await member.ask("prepare", own, rows, counts, sockets=handed, seconds=CHANGE_SECONDS)

        answers = await asyncio.gather(*map(prepare, members), return_exceptions=True)
        # Who died meanwhile comes back with what is in force then; who lives and cannot, stands for all.
        problems = [answer for answer in answers if isinstance(answer, Refused | TimeoutError)]
        if not problems:
            return
        await self._all(members, lambda member: member.ask("drop"))
        refused = next((problem for problem in problems if isinstance(problem, Refused)), None)
        raise refused or Refused(503, "a worker did not answer in time: nothing was changed")

    async def _commit(self, step: Step, opened: sockets.Sockets) -> int:
        old, self.config = self.config, step.config
        ids = {backend.name for backend in step.config.backends}
        self.draining = set() if step.from_file else self.draining & ids
        if step.drain is not None:
            (self.draining.add if step.drain[1] else self.draining.discard)(step.drain[0])
        if step.from_file:
            self.switching.follow(step.config.policy, step.config.shadow)
        self.whole.changed(step.config)
        self.sockets.update(opened)
        kept = {str(listen.address) for listen in step.config.listen}
        members = list(self.members.values())
        told = await self._all(members, lambda member: member.ask("commit", seconds=CHANGE_SECONDS))
        self._replace_those_without(told, members)
        await self.whole.forget(old, step.config)
        left = {address: self.sockets.pop(address) for address in list(self.sockets) if address not in kept}
        sockets.close(left, old.listen)
        return sum(told.values())

    @staticmethod
    def _replace_those_without(told: Mapping[int, object], members: Sequence[Member]) -> None:
        """Who did not take a change over must not go on as before."""
        for member in members:
            if member.index not in told and not member.is_lost:
                log.error("worker %d did not take the change over, and is replaced", member.index + 1)
                member.kill()

    async def switch(self, body: object, policy: Policy, shadow: Shadow | None) -> dict[int, dict[str, Any]]:
        """These policies in all workers, as `body` says; what each told."""
        async with self._steady:
            self.switching.policy, self.switching.shadow = policy, shadow
            members = list(self.members.values())
            told = await self._all(members, lambda member: member.ask("switch", body, seconds=CHANGE_SECONDS))
            self._replace_those_without(told, members)
            return told


def own_config(config: Config, index: int) -> Config:
    """What one worker is to go by: no two of them write to one recording, or to one log of decisions."""
    suffix = f".worker{index + 1}"
    if config.recording is not None:
        own = dataclasses.replace(config.recording, path=config.recording.path + suffix)
        config = dataclasses.replace(config, recording=own)
    if config.decisions is not None:
        mine = dataclasses.replace(config.decisions, path=config.decisions.path + suffix)
        config = dataclasses.replace(config, decisions=mine)
    return config
