"""What does the admin listener ask, and whom? In one process the parts themselves, in several somebody who asks all.

The parts answer at once, who has to ask others first answers later: `settled` takes both.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from fairlead.config.schema import Policy, Shadow

T = TypeVar("T")

Soon: TypeAlias = T | Awaitable[T]


async def settled(answer: Soon[T]) -> T:
    """The answer itself."""
    return cast(T, await answer if inspect.isawaitable(answer) else answer)


class Shows(Protocol):
    """What is there to see; `Views` is it of one process."""

    def backends(self) -> Soon[list[dict[str, Any]]]: ...

    def decisions(self, limit: int) -> Soon[list[dict[str, Any]]]: ...

    def explain(self, request_id: str) -> Soon[dict[str, Any] | None]: ...

    def shadow(self) -> Soon[dict[str, Any]]: ...

    def alerts(self) -> Soon[list[dict[str, Any]]]: ...

    def ended_alerts(self) -> Soon[list[dict[str, Any]]]: ...

    def models(self) -> Soon[dict[str, dict[str, Any]]]: ...


class Renders(Protocol):
    """The metrics page."""

    def render(self) -> Soon[bytes]: ...


class Switches(Protocol):
    """Which policies are in force; `Switching` is it of one process."""

    policy: Policy
    shadow: Shadow | None

    def shown(self) -> dict[str, Any]: ...

    def switch(self, body: object) -> Soon[dict[str, Any]]: ...
