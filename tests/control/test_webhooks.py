"""Webhooks over real connections: receivers that are slow, down, wrong, or that redirect; and no secret in the log."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest
from control_app import engines, running
from receivers import SECRET, Receiver, Sending, alert

from fairlead.config.load import parse
from fairlead.config.parts import webhook_targets
from fairlead.control.webhook_outbox import GROUP
from fairlead.control.webhooks import Target

KEY = "Bearer k3y-of-a-person"


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    said = [record.getMessage() for record in caplog.records if record.name.startswith("fairlead")]
    assert not [line for line in said if SECRET in line or KEY in line or "127.0.0.1" in line]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "webhook" in record.getMessage()]


def target(receiver: Receiver, **options: object) -> Target:
    return Target(receiver.url, headers=(f"Authorization: {KEY}",), **options)  # type: ignore[arg-type]


def test_an_alert_gets_there_with_the_headers_that_were_set() -> None:
    async def body() -> None:
        async with Receiver().listening() as receiver, Sending(target(receiver)).closing() as sending:
            sending.tell(alert("a"), alert("b"))
            sending.pass_(GROUP)
            await sending.until("the message", lambda: sending.webhooks.messages["json"])
            ((path, headers, told),) = receiver.got
            assert path == f"/{SECRET}"
            assert (headers["Authorization"], headers["Content-Type"]) == (KEY, "application/json")
            assert [each["backend"] for each in told["raised"]] == ["a", "b"]
            assert sending.webhooks.failures == {"slack": 0, "alertmanager": 0, "json": 0}

    asyncio.run(body())


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_an_answer_that_is_no_yes_is_tried_again_and_logged_once(caplog: pytest.LogCaptureFixture, status: int) -> None:
    async def body() -> None:
        receiver = Receiver(status, status, 200)
        async with receiver.listening(), Sending(target(receiver)).closing() as sending:
            sending.tell(alert())
            sending.pass_(60.0)
            await sending.until("a failure", lambda: sending.webhooks.failures["json"] == 1)
            sending.pass_(60.0)
            await sending.until("one more", lambda: sending.webhooks.failures["json"] == 2)
            sending.pass_(60.0)
            await sending.until("the message", lambda: sending.webhooks.messages["json"])
            assert len(receiver.got) == 3

    asyncio.run(body())
    failed, works = lines(caplog)
    assert failed.startswith(f"webhook 1 (json) failed: it answered {status}; it is tried again in 2 s")
    assert works == "webhook 1 (json) works again"


def test_a_receiver_that_asks_for_a_pause_gets_it() -> None:
    async def body() -> None:
        receiver = Receiver(429, 200)
        receiver.headers = {"Retry-After": "120"}
        async with receiver.listening(), Sending(target(receiver)).closing() as sending:
            sending.tell(alert())
            sending.pass_(GROUP)
            await sending.until("a failure", lambda: sending.webhooks.failures["json"])
            (post,) = sending.webhooks._posts.values()
            assert post._outbox.due(sending.now) == 120.0

    asyncio.run(body())


def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with Receiver().listening() as other, Receiver(307).listening() as receiver:
            receiver.headers = {"Location": other.url}
            async with Sending(target(receiver)).closing() as sending:
                sending.tell(alert())
                sending.pass_(GROUP)
                await sending.until("a failure", lambda: sending.webhooks.failures["json"])
                assert other.got == []

    asyncio.run(body())
    assert "it answered 307" in lines(caplog)[0]


def test_a_receiver_that_is_down_is_a_failure_in_plain_words(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            receiver = Receiver()
            receiver.url = f"http://127.0.0.1:{free.getsockname()[1]}/{SECRET}"
            async with Sending(target(receiver, format="slack")).closing() as sending:
                sending.tell(alert())
                sending.pass_(GROUP)
                await sending.until("a failure", lambda: sending.webhooks.failures["slack"])

    asyncio.run(body())
    assert lines(caplog)[0].startswith("webhook 1 (slack) failed: no connection (Connection refused);")


def test_one_that_hangs_holds_up_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with Receiver("hang").listening() as slow, Receiver().listening() as quick:
            hung = Sending(target(slow), target(quick, format="slack"), timeout=0.2)
            async with hung.closing() as sending:
                began = time.monotonic()
                sending.tell(*(alert(f"b{n}") for n in range(500)))
                told_in = time.monotonic() - began
                sending.pass_(GROUP)
                await sending.until("the quick one", lambda: sending.webhooks.messages["slack"])
                await sending.until("the limit of time", lambda: sending.webhooks.failures["json"])
                print(f"telling two webhooks of 500 alerts took {told_in * 1000:.1f} ms")

    asyncio.run(body())
    assert "webhook 1 (json) failed: no answer within 0.2 s" in lines(caplog)[0]


def test_closing_does_not_wait_for_one_that_hangs() -> None:
    async def body() -> None:
        async with Receiver("hang").listening() as slow:
            async with Sending(target(slow)).closing() as sending:
                sending.tell(alert())
                sending.pass_(GROUP)
                await sending.until("it has begun", lambda: slow.got)
            assert sending.webhooks.failures["json"] == 0

    asyncio.run(body())


def test_a_storm_is_one_message() -> None:
    async def body() -> None:
        async with Receiver().listening() as receiver:
            async with Sending(target(receiver, format="slack", per_minute=1)).closing() as sending:
                sending.tell(alert("first"))
                sending.pass_(GROUP)
                await sending.until("the first", lambda: sending.webhooks.messages["slack"])
                for n in range(2000):
                    sending.tell(alert(f"b{n % 50}", until=None if n // 50 % 2 == 0 else 20.0))
                    sending.pass_(0.01)
                await asyncio.sleep(0)
                assert len(receiver.got) == 1
                sending.pass_(60.0)
                await sending.until("the second", lambda: sending.webhooks.messages["slack"] == 2)
                assert "and 2000 changes since the last message that are over already" in receiver.got[1][2]["text"]

    asyncio.run(body())


def test_a_change_of_the_configuration_keeps_those_that_stay() -> None:
    async def body() -> None:
        async with Receiver().listening() as old, Receiver().listening() as kept, Receiver().listening() as new:
            stays = target(kept, format="slack")
            async with Sending(target(old), stays).closing() as sending:
                sending.tell(alert("a"))
                sending.webhooks.follow([stays, target(new)], standing=[alert("a")])
                assert len(sending.webhooks._posts) == 2
                sending.pass_(GROUP)
                await sending.until("both", lambda: kept.got and new.got)
                assert [each["backend"] for each in new.got[0][2]["raised"]] == ["a"], "it is told of what stands"
                assert old.got == []
                sending.webhooks.follow([])
                sending.tell(alert("b"))
                sending.pass_(GROUP)
                assert sending.webhooks._posts == {}

    asyncio.run(body())


def test_a_whole_fairlead_tells_and_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with engines(1) as (one,), Receiver().listening() as receiver:
            webhook = {"url": receiver.url, "format": "json", "headers": f"Authorization: {KEY}"}
            async with running(one.url, alerts={"webhooks": webhook}) as fairlead:
                app = fairlead.app
                app.reloader.versions.problem = {"message": "the file has 1 problem"}
                now = app.clock()
                for later in (0.0, 61.0):
                    app.alerting.look(app.facts(now + later), now + later)
                (shown,) = (await fairlead.json("/api/alerts"))["alerts"]
                assert (shown["alert"], shown["until"]) == ("reload_refused", None)
                app.reloader.versions.problem = None
                app.alerting.look(app.facts(now + 62.0), now + 62.0)
                told = await fairlead.json("/api/alerts")
                assert told["alerts"] == []
                assert [(each["alert"], each["since"] < each["until"]) for each in told["ended"]] == [
                    ("reload_refused", True)
                ]
                _, page = await fairlead.get("/metrics")
                assert b'fairlead_webhook_failures_total{format="json"} 0.0' in page
                assert b'fairlead_alert_active{alert="reload_refused",backend=""} 0.0' in page
                _, config = await fairlead.get("/api/config")
                assert SECRET.encode() not in config and KEY.encode() not in config
                assert (await fairlead.json("/api/config"))["alerts"]["webhooks"] == [
                    {"url": "(not shown)", "format": "json", "headers": ["Authorization: (not shown)"],
                     "send_resolved": True, "per_minute": 10}
                ]  # fmt: skip

    asyncio.run(body())
    assert [r.getMessage() for r in caplog.records if "reload_refused" in r.getMessage()][1:] == [
        "alert reload_refused cleared"
    ]


@pytest.mark.parametrize(
    ("webhook", "complaint"),
    [
        ({"url": f"ftp://me/{SECRET}"}, "alerts.webhooks.url: expected a URL that begins with http:// or https://"),
        ({"url": f"https://a b/{SECRET}"}, "alerts.webhooks.url: expected a URL of printable ASCII without spaces"),
        ({"url": f"https://me:{SECRET}@a/"}, "alerts.webhooks.url: expected a URL without a user name, got other text"),
        ({"url": f"https://a:99999/{SECRET}"}, "alerts.webhooks.url: expected http://HOST:PORT with a port"),
        ({"format": "slack"}, "alerts.webhooks.url: required, but not there"),
        ({"url": "https://a", "format": "teams"}, "alerts.webhooks.format: expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_configuration_is_told_without_the_secret(webhook: object, complaint: str) -> None:
    config, problems = parse({"backends": "a:1", "alerts": {"webhooks": webhook}}, "test")
    assert config is None
    (problem,) = [str(problem) for problem in problems]
    assert complaint in problem
    assert SECRET not in problem


def test_a_url_is_used_as_it_stands() -> None:
    url = f"HTTPS://Hooks.test/{SECRET}/?key=A%20b&x=1"
    config, problems = parse({"backends": "a:1", "alerts": {"webhooks": [{"url": url}]}}, "test")
    assert config is not None, problems
    (made,) = webhook_targets(config)
    assert made.url == url
    assert SECRET not in repr(made)
