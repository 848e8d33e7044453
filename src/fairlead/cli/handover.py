"""Who had our sockets before us, who gets them after us, and what does systemd hear of it?

Puts together what `fairlead serve` needs of control/takeover.py and control/systemd.py, for one process or several.
Rule 1: that we can be taken over is a comfort: where its folder cannot be had we say so, and serve.
Rule 2: the one before us is told to go only when everything here serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from fairlead.config.schema import Config
from fairlead.control.asked import settled
from fairlead.control.systemd import ADMIN, Notifier, activated
from fairlead.control.takeover import Inheritance, Offer, TakeoverError, control_path, is_running, take_over

if TYPE_CHECKING:
    from fairlead.config.build import App
    from fairlead.workers.supervisor import Supervisor

log = logging.getLogger("fairlead")


class Handover:
    """The beginning and the end of one `fairlead serve`."""

    def __init__(self, app: App | Supervisor) -> None:
        self.notifier = Notifier()
        self._app = app
        self._path = ""
        self._taken: Inheritance | None = None
        self._offer: Offer | None = None
        self._looking: asyncio.Task[None] | None = None
        self._status = "starting"

    async def find(self, config: Config, *, takeover: bool) -> dict[str, list[socket.socket]]:
        """Sockets that are there already, by address. TakeoverError, ActivationError."""
        addresses = [listen.address for listen in config.listen]
        given = await activated(addresses, config.admin)
        try:
            self._path = control_path(str(config.admin))
        except TakeoverError as problem:
            if takeover:
                raise
            log.warning("nobody can take over from this process: %s", problem)
        if not takeover:
            return given
        self._taken = await take_over(self._path)
        if self._taken is None:
            log.info("nothing to take over: no fairlead of this user runs with the admin address %s", config.admin)
            return given
        wanted = {ADMIN, *map(str, addresses)}
        self._taken.drop([address for address in self._taken.sockets if address not in wanted])
        for address in self._taken.sockets.keys() & given.keys():
            for sock in given.pop(address):
                sock.close()
        return {**given, **self._taken.sockets}

    def hint(self, problem: str) -> str:
        """What else could be done about an address that cannot be had."""
        if self._taken is None and self._path and " in use" in problem and is_running(self._path):
            return "; or take over from the fairlead that runs there, with --takeover"
        return ""

    async def serve(self, stop: asyncio.Event) -> None:
        """All is started: tell who waits for it. `stop` is set when somebody takes over from us."""
        self._status = _status(await settled(self._app.views.backends()))
        taken = self._taken
        if taken is not None:
            self._app.own_files(taken.files)  # not before: a start that fails must leave the old one its files
            await taken.ready()
            for address in taken.files - taken.sockets.keys():  # nobody listens there any more
                with contextlib.suppress(OSError):
                    os.unlink(address.removeprefix("unix:"))
            log.info("took over from process %d, which drains", taken.pid)

        async def release(pid: int) -> None:
            await self._app.release()
            self.notifier.handed_on(pid)
            stop.set()

        if self._path:
            self._offer = Offer(self._path, self._app.offered, release)
            try:
                self._offer.open()
            except OSError as problem:
                log.warning("nobody can take over from this process: %s: %s", self._path, problem.strerror)
                self._offer = None
        self.notifier.ready(lambda: self._status)
        if self.notifier.is_heard:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._status = _status(await settled(self._app.views.backends()))

    def stopping(self) -> None:
        """It drains."""
        if self._offer is not None:
            self._offer.close()
        if self._looking is not None:
            self._looking.cancel()
        self.notifier.stopping()

    def close(self) -> None:
        """Let go of everything."""
        if self._taken is not None:
            self._taken.close()
        self.notifier.close()


def _status(rows: list[dict[str, Any]]) -> str:
    return f"{sum(row['state'] == 'up' for row in rows)} of {len(rows)} backends up"
