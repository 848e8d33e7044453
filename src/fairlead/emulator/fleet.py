"""A fleet: several emulated engines in one process, for tests, demos and the command.

Rule 1: all start or none does; all are stopped when the block ends, whatever happened in it.
Rule 2: it runs inside the caller's event loop and touches nothing else of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from fairlead.emulator.faults import FaultValues
from fairlead.emulator.profiles import Profile, profile
from fairlead.emulator.server import EmulatedServer


class PortInUse(OSError):
    """Somebody else listens there."""


class EmulatedFleet:
    """`async with EmulatedFleet(["h100-8b", "l4-8b"], model="m", speed=10) as fleet:` -> `fleet.urls`.

    Ports count up from `port`; 0 lets the system choose each. `fleet[0].faults.set(freeze=True)` breaks one engine.
    """

    def __init__(
        self,
        profiles: Sequence[str | Profile],
        *,
        model: str = "emulated",
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        mean_output: float = 200.0,
        seed: int = 0,
        faults: FaultValues | None = None,
    ) -> None:
        if not profiles:
            raise ValueError("a fleet needs at least one profile")
        self.servers = [
            EmulatedServer(
                profile(each) if isinstance(each, str) else each,
                model=model,
                host=host,
                port=port + place if port else 0,
                speed=speed,
                mean_output=mean_output,
                seed=seed,
                faults=faults,
            )
            for place, each in enumerate(profiles)
        ]

    def __len__(self) -> int:
        return len(self.servers)

    def __getitem__(self, place: int) -> EmulatedServer:
        return self.servers[place]

    def __iter__(self) -> Iterator[EmulatedServer]:
        return iter(self.servers)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    async def start(self) -> None:
        """Start all engines; PortInUse names the port that is taken."""
        started: list[EmulatedServer] = []
        try:
            for server in self.servers:
                try:
                    await server.start()
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise PortInUse(f"{server.host}:{server.port} is already in use") from error
                    raise
                started.append(server)
        except BaseException:
            for server in started:
                await server.stop()
            raise

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()

    async def __aenter__(self) -> EmulatedFleet:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
