"""An event loop and transports in memory: nothing waits, nothing sleeps, all that is ready runs at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class Loop:
    """What the proxy asks of an event loop. `open` makes its connections, or raises OSError."""

    def __init__(self) -> None:
        self.open: Callable[[str, int, Callable[[], Any]], None]
        self.timer: Callable[[], None] | None = None
        self._ready: deque[Callable[[], None]] = deque()

    def call_soon(self, action: Callable[..., None], *arguments: Any) -> None:
        self._ready.append(lambda: action(*arguments))

    def call_later(self, delay: float, action: Callable[[], None]) -> Loop:
        self.timer = action  # only the wheel has one
        return self

    def cancel(self) -> None:
        self.timer = None

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        task = Task(coroutine)
        self._ready.append(task.run)
        return task

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **tls: Any) -> None:
        self.open(host, port, factory)

    def run(self) -> None:
        while self._ready:
            self._ready.popleft()()

    def fire(self) -> None:
        assert self.timer is not None
        self.timer()


class Task:
    """A coroutine that never has to wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._cancelled = False
        self._done: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._done.append(callback)

    def cancel(self) -> None:
        self._cancelled = True

    def run(self) -> None:
        if self._cancelled:
            self._coroutine.close()
        else:
            try:
                self._coroutine.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("the proxy waits for something in a task")
        for callback in self._done:
            callback(self)


class Wire(asyncio.Transport):
    """A transport in memory: what is written is handed to `heard` at once."""

    def __init__(self, loop: Loop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.closed = False

    def heard(self, data: bytes) -> None:
        raise NotImplementedError

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.heard(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 40_000) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass  # nothing ever waits here

    def pause_reading(self) -> None:
        raise AssertionError("nobody is slow here")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def lose(self, why: Exception | None) -> None:
        """The other side closed or broke it."""
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(why)


class Seat(Wire):
    """A client's connection, from the client's side: keeps what it gets."""

    def __init__(self, loop: Loop, client: asyncio.Protocol) -> None:
        super().__init__(loop, client)
        self.got = b""

    def heard(self, data: bytes) -> None:
        self.got += data

    def can_write_eof(self) -> bool:
        return False
