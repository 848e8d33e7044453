"""Case 40 over HTTP/2: hedged requests share a connection with others, and a reset stream closes both tries."""

from __future__ import annotations

import pytest
from hedge_cases import EAGER, PLAIN, STREAM, Late, both_asked, streaming
from http2_peer import dial2
from peers import run, until
from running import DONE, event, fleet, reply

EVENTS = event(0) + event(1) + event(2) + DONE


@pytest.mark.parametrize("data", [PLAIN, STREAM])
def test_the_hedge_answers_one_stream_while_another_goes_on(data: bytes) -> None:
    async def body() -> None:
        slow, patient = Late(), Late(streaming())
        async with fleet(2, **EAGER) as f:
            client = await dial2(f.address)
            f.play.scripts = [slow, streaming() if data is STREAM else reply()]
            got = await client.answer(client.ask("a", data))
            assert (got.status, got.field(b"x-nonce"), got.ended) == (200, b"a", True)
            if data is STREAM:
                assert got.body == EVENTS
            await slow.closed()
            other = Late()
            f.play.scripts = [patient, other]
            id = client.ask("b", STREAM)
            await both_asked(patient, other)
            patient.go.set()
            got = await client.answer(id)
            assert (got.field(b"x-nonce"), got.body) == (b"b", EVENTS)
            await other.closed()
            assert {word: n for word, n in f.app.recorder.hedges.items() if n} == {"won": 1, "lost": 1}
            client.close()

    run(body)


def test_a_stream_that_is_reset_closes_both_tries() -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with fleet(2, **EAGER) as f:
            client = await dial2(f.address)
            f.play.scripts = [first, second]
            id = client.ask("a", STREAM)
            await both_asked(first, second)
            client.reset(id)
            await first.closed()
            await second.closed()
            await until(lambda: f.app.recorder.hedges["cancelled"] == 1)
            f.play.scripts = [streaming()]
            assert (await client.answer(client.ask("b", STREAM))).body == EVENTS
            client.close()

    run(body)
