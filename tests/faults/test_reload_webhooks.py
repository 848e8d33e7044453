"""Webhooks follow a reload: one that is new is told of what stands, one that goes is told nothing any more."""

from __future__ import annotations

from typing import cast

from peers import run
from receivers import Receiver
from reloading import kept

from fairlead.control.webhooks import Webhooks


def test_webhooks_come_and_go_with_a_reload() -> None:
    async def body() -> None:
        async with kept() as k, Receiver().listening() as receiver:
            alerting = k.f.app.alerting
            none = alerting._webhooks
            assert none is None, "who has none pays for none"
            k.f.app.reloader.versions.problem = {"message": "the file has 1 problem"}
            now = k.f.app.clock()
            for later in (0.0, 61.0):
                alerting.look(k.f.app.facts(now + later), now + later)
            assert [alert["alert"] for alert in alerting.standing()] == ["reload_refused"]
            await k.reload(alerts={"webhooks": {"url": receiver.url}})
            webhooks = cast(Webhooks, alerting._webhooks)
            (post,) = webhooks._posts.values()
            assert post._outbox.due(k.f.app.clock()) is not None, "it is going to be told of what stands"
            await k.reload(drain="7s")
            assert list(webhooks._posts.values()) == [post], "one that stays is the same"
            await k.reload(alerts={"webhooks": [{"url": receiver.url, "format": "slack"}]})
            assert [each.format for each in webhooks._posts] == ["slack"]
            await k.reload(alerts={"webhooks": []})
            assert webhooks._posts == {}
            assert post.task.cancelled() or post.task.done()

    run(body)
