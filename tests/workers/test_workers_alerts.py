"""With several workers alerts are judged on the whole, told once, and outlive the worker that saw their reason."""

from __future__ import annotations

import os
import signal
from collections import Counter

from crew import Crew, crew, eventually
from peers import run
from receivers import SECRET, Receiver
from running import ask

BOTH = ["backend_share"] * 2
SHARE = {"threshold": "30%", "min_requests": 20}  # half of the requests each, which is far above this


async def names(c: Crew, part: str = "alerts") -> list[str]:
    status, told = await c.call("GET", "/api/alerts")
    assert status == 200
    return [alert["alert"] for alert in told[part]]


async def become(c: Crew, standing: list[str], ended: int = 0) -> None:
    async def so() -> bool:
        return await names(c) == standing and len(await names(c, "ended")) == ended

    await eventually(so, f"these stand: {standing}")


def test_shares_of_the_whole_are_told_once_and_outlive_a_worker() -> None:
    async def body() -> None:
        async with Receiver().listening() as receiver:
            alerts = {"share": SHARE, "webhooks": {"url": receiver.url}}
            async with crew(2, 2, policy={"name": "round_robin"}, alerts=alerts) as c:
                assert await names(c) == []
                workers = Counter[str]()
                while workers.total() < 24:
                    answer = await c.get(ask(f"n{workers.total()}"))
                    assert answer.status == 200
                    workers[str(answer.field("x-request-id")).split("-")[0]] += 1
                print(f"requests by worker: {sorted(workers.values())}; it takes 20")
                await become(c, BOTH)
                assert await c.metric("fairlead_alert_active", 'alert="backend_share"') == 2.0
                os.kill(c.pids[0], signal.SIGKILL)
                await c.all_serve(1)
                await become(c, BOTH)

                async def told() -> bool:
                    return bool(receiver.got)

                await eventually(told, "the webhook is told")
                ((path, _, message),) = receiver.got
                assert path == f"/{SECRET}"
                assert sorted(each["backend"] for each in message["raised"]) == ["engine0", "engine1"]
                assert await c.metric("fairlead_webhook_messages_total", 'format="json"') == 1.0

    run(body)


def test_a_reload_brings_other_limits_for_the_whole() -> None:
    async def body() -> None:
        async with crew(2, 2, policy={"name": "round_robin"}, alerts={"share": SHARE}) as c:
            for number in range(24):
                assert (await c.get(ask(f"n{number}"))).status == 200
            await become(c, BOTH)
            c.write(alerts={"share": {**SHARE, "threshold": "90%"}})
            assert (await c.call("POST", "/api/reload", {}))[0] == 200
            await become(c, [], ended=2)

    run(body)
