"""Cases 26 to 28 and 34 to 38: how often is a failing fleet asked, and what is the client told to do?"""

from __future__ import annotations

import asyncio
import json
import random

import anthropic
import openai
import pytest
from oracle import judged
from peers import Peer, Script, Seen, run, until
from running import ask, fleet, raw, reply, reset, stream

from fairlead.proxy.suspects import MAX_SUSPECTS, SECONDS, Suspects

BUSY = reply(b"{}", "503 Busy", b"Retry-After: 7\r\n")


def test_case_26_a_fleet_that_refuses_is_503_at_once_and_serves_when_it_is_back() -> None:
    async def body() -> None:
        async with fleet(4, health={"interval": "100ms", "fall": 100}) as f:
            assert (await f.get()).status == 200
            for engine in f.engines:
                await engine.kill()
            for pool in f.app.service.pools.values():
                pool.close()
            for _ in range(20):
                answer = await f.get()
                assert (answer.status, answer.field("retry-after")) == (503, "1")
                assert answer.field("x-should-retry") is None, "it is worth to come again"
            lines = (await f.logged(21))[1:]
            assert {line["tries"] for line in lines} == {3}
            f.unseen_tries = 60
            for engine in f.engines:
                await engine.open()
            assert [(await f.get()).status for _ in range(8)] == [200] * 8

    run(body)


def test_case_27_a_thousand_races_with_an_engine_that_closes_kept_connections() -> None:
    rng = random.Random(27)

    async def body() -> None:
        async with fleet(2) as f:
            used: set[tuple[str, int]] = set()

            async def racing(peer: Peer, seen: Seen) -> None:
                kept = (seen.engine, peer.number) in used
                used.add((seen.engine, peer.number))
                if kept and rng.random() < 0.5:  # it "had closed" before this request came
                    f.resent += 1
                    peer.reset() if rng.random() < 0.5 else peer.close()
                    return
                await (stream(2) if rng.random() < 0.3 else reply())(peer, seen)
                if rng.random() < 0.3:  # closed just after the answer: before or after the next request is written
                    peer.close()

            f.play.default = racing
            numbers = iter(range(1_000))

            async def worker() -> None:
                client = await f.dial()
                for number in numbers:
                    await client.send(ask(f"n{number}"))
                    answer = await client.answer()
                    assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, f"n{number}")

            await asyncio.gather(*(worker() for _ in range(8)))
            await f.stop()
            lines = await f.logged(1_000)
            assert {(line["status"], line["outcome"]) for line in lines} == {(200, "ok")}
            assert f.resent >= 100
            # Requests that met a connection closed by `close` above were not seen by any script.
            f.unseen_tries = sum(line["tries"] for line in lines) + f.resent - len(f.seen)
            assert 0 <= f.unseen_tries <= 10

    run(body)


@pytest.mark.parametrize("status", ["429 Too Many", "503 Busy"])
def test_case_34_the_last_refusal_is_relayed_with_its_retry_after(status: str) -> None:
    async def body() -> None:
        script = reply(b'{"busy":1}', status, b"Retry-After: 7\r\n")
        retries = {"on": ["connect", "timeout", "502", "503", "429"]}
        async with judged(3, default=script, retries=retries) as (f, oracle):
            f.play.scripts = []
            client = await f.dial()
            await client.send(ask("n"))
            answer = await client.answer()
            oracle.outcomes[answer.status] += 1
            assert (str(answer.status), answer.body, answer.field("retry-after")) == (status[:3], b'{"busy":1}', "7")
            assert answer.field("x-should-retry") == "false", "three backends were asked: enough"
            assert len({seen.engine for seen in f.seen}) == 3
            client.close()

    run(body)


def test_case_35_a_failing_fleet_is_not_asked_much_more_often_than_its_clients_ask() -> None:
    async def body() -> None:
        async with fleet(4, default=BUSY, retries={"budget": "20%"}) as f:
            numbers = iter(range(1_500))

            async def worker() -> None:
                client = await f.dial()
                for number in numbers:
                    await client.send(ask(f"n{number}"))
                    assert (await client.answer()).status == 503

            await asyncio.gather(*(worker() for _ in range(8)))
            # 20 % and a floor of 10/s, counted in windows of ten seconds: 100, and once more if a window turns.
            assert len(f.seen) <= 1_500 * 1.2 + 200
            overflows = f.app.balancer.budget.overflows
            assert overflows >= 900
            metrics = await _metrics(f.admin)
            assert f"fairlead_retry_overflow_total {float(overflows)}" in metrics
            f.play.default = reply()
            assert [(await f.get()).status for _ in range(20)] == [200] * 20

    run(body)


async def _metrics(admin: tuple[str, int]) -> str:
    reader, writer = await asyncio.open_connection(*admin)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("failing", ["503", "reset"])
def test_case_36_sdks_do_not_multiply_the_tries(sdk: str, failing: str) -> None:
    async def body() -> None:
        async with fleet(3, default=BUSY if failing == "503" else reset) as f:
            url = f"http://{f.address[0]}:{f.address[1]}"
            if sdk == "openai":
                async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none") as client:
                    with pytest.raises(openai.InternalServerError):
                        await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            else:
                async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as other:
                    with pytest.raises(anthropic.InternalServerError):
                        await other.messages.create(
                            model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}]
                        )
            assert len(f.seen) == (3 if failing == "503" else 2)
            assert len(await f.logged(1)) == 1, "the SDK asked once"

    run(body)


def test_one_try_that_failed_does_not_forbid_another() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [reset, BUSY]
            for status in (502, 503):
                answer = await f.get()
                assert (answer.status, answer.field("x-should-retry")) == (status, None)

    run(body)


LETHAL = b'{"model":"m","messages":[{"role":"user","content":"kill"}]}'


def killing(then: Script) -> Script:
    async def play(peer: Peer, seen: Seen) -> None:
        await (reset if b"kill" in seen.body else then)(peer, seen)

    return play


def test_case_37_a_request_that_breaks_engines_reaches_two_of_them_and_is_then_refused() -> None:
    async def body() -> None:
        async with judged(4, default=killing(reply())) as (f, oracle):
            for _ in range(3):
                verdict = await oracle.speak(ask("bad", body=LETHAL), closed=False)
                assert verdict.statuses == (502,)
                assert json.loads(verdict.answers[0].body)["error"]["code"] == "poison_suspect"
                assert verdict.answers[0].field("x-should-retry") == "false"
            assert sum(seen.body == LETHAL for seen in f.seen) == 2, "repeats reach nobody"
            lines = [line for line in await f.logged(6) if line["status"] == 502]
            assert [line["tries"] for line in lines] == [2, 0, 0]
            other = await oracle.speak(ask("good", body=LETHAL.replace(b"kill", b"live")), ["good"], closed=False)
            assert other.statuses == (200,)
            f.app.service.suspects.forget(f.app.service.clock() + SECONDS + 1.0)
            f.play.default = reply()
            again = await oracle.speak(ask("again", body=LETHAL), ["again"], closed=False)
            assert again.statuses == (200,), "a minute later it is tried again"

    run(body)


@pytest.mark.parametrize("scripts", [[BUSY, BUSY, reply()], [reset, BUSY, reply()], [BUSY, reset, reply()]])
def test_case_37_only_broken_connections_make_a_suspect(scripts: list[Script]) -> None:
    async def body() -> None:
        async with fleet(3) as f:
            f.play.scripts = list(scripts)
            assert (await f.get(ask(body=LETHAL))).status == 200
            assert len(f.app.service.suspects) == 0

    run(body)


def test_case_37_what_is_remembered_of_suspects_is_bounded_and_ends() -> None:
    suspects = Suspects()
    suspects.add(b"", 0.0)
    assert len(suspects) == 0, "nothing tells an empty body from others"
    for number in range(MAX_SUSPECTS + 10):
        suspects.add(b"%d" % number, float(number))
    assert len(suspects) == MAX_SUSPECTS
    assert not suspects.are_with(b"9")
    assert suspects.are_with(b"10")
    suspects.forget(SECONDS + 20.0)
    assert not suspects.are_with(b"20")
    assert suspects.are_with(b"21")


@pytest.mark.parametrize("fault", [reset, BUSY, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", close=True)])
def test_case_38_a_large_body_is_sent_again_to_the_byte_and_then_let_go_of(fault: Script) -> None:
    text = random.Random(38).randbytes(4 << 20).hex().encode()  # 8 MiB
    large = b'{"model":"m","messages":[{"role":"user","content":"' + text + b'"}]}'

    async def body() -> None:
        async with judged(2) as (f, oracle):
            f.play.scripts = [fault, reply()]
            verdict = await oracle.speak(ask("n", body=large), ["n"], closed=False)
            assert verdict.statuses == (200,)
            assert [seen.body == large for seen in f.seen[:2]] == [True, True]
            await until(lambda: f.app.service.memory.used == 0, "no body is kept")

    run(body)


def test_case_38_what_is_kept_to_be_sent_again_is_bounded_for_all_together() -> None:
    async def body() -> None:
        async with fleet(1, limits={"body": "1MiB", "body_memory": "1MiB"}) as f:
            held = asyncio.Event()

            async def waits(peer: Peer, seen: Seen) -> None:
                await held.wait()
                await reply()(peer, seen)

            f.play.default = waits
            large = b'{"model":"m","prompt":"' + b"x" * 700_000 + b'"}'
            first = await f.dial()
            await first.send(ask("a", body=large))
            await until(lambda: f.seen)
            answer = await f.get(ask("b", body=large))
            assert (answer.status, answer.field("retry-after")) == (503, "1")
            held.set()
            assert (await first.answer()).field("x-nonce") == "a"

    run(body)
