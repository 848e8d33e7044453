"""The real Alertmanager takes our alerts, keeps them while they are repeated, and drops them when they end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from alertmanager import Alertmanager, running
from receivers import Sending, alert

from fairlead.control.webhook_formats import LASTS, Sender
from fairlead.control.webhook_outbox import GROUP, REPEAT
from fairlead.control.webhooks import Target


async def told(sending: Sending, count: int) -> None:
    await sending.until("Alertmanager took it", lambda: sending.webhooks.messages["alertmanager"] == count)
    assert sending.webhooks.failures["alertmanager"] == 0


def sender_of(manager: Alertmanager) -> Sending:
    sending = Sending(Target(manager.url, "alertmanager"))
    sending.now = 100_000.0
    sending.webhooks.sender = Sender("lb1:9900", time.time() - sending.now)  # our clock says what it is now
    return sending


def test_it_takes_keeps_and_ends_them(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path) as manager, sender_of(manager).closing() as sending:
            began = sending.now - 60.0
            sending.tell(alert("a", began), alert("b", began), alert("", began, name="no_backend"))
            sending.pass_(GROUP)
            await told(sending, 1)
            found = {each["labels"].get("backend", ""): each for each in await manager.alerts()}
            assert set(found) == {"a", "b", ""}
            assert found["a"]["labels"] == {
                "alertname": "FairleadBackendErrors", "alert": "errors", "severity": "warning", "job": "fairlead",
                "instance": "lb1:9900", "backend": "a",
            }  # fmt: skip
            assert found["a"]["annotations"] == {"summary": "errors: a", "description": "backend a failed"}
            assert found["a"]["status"]["state"] == "active"
            first = found["a"]["endsAt"]
            sending.pass_(REPEAT)
            await told(sending, 2)
            again = {each["labels"].get("backend", ""): each for each in await manager.alerts()}
            assert again["a"]["endsAt"] > first, "it is kept for longer"
            assert again["a"]["startsAt"] == found["a"]["startsAt"]
            sending.tell(alert("a", began, until=began + 30.0))
            sending.pass_(GROUP)
            await told(sending, 3)
            assert {each["labels"].get("backend", "") for each in await manager.alerts()} == {"b", ""}

    asyncio.run(body())


def test_amtool_sees_them(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path) as manager, sender_of(manager).closing() as sending:
            sending.tell(alert("gpu1", sending.now))
            sending.pass_(GROUP)
            await told(sending, 1)
            found = await manager.query()
            assert found["gpu1"]["labels"]["alertname"] == "FairleadBackendErrors"
            assert "FairleadBackendErrors" in await manager.amtool("alert", "query", "severity=warning")

    asyncio.run(body())


def test_one_that_is_not_repeated_would_end_by_itself() -> None:
    assert LASTS > 2 * REPEAT, "one message may be lost"
