"""What Fairlead forwards is read the same by Node, llhttp, h11 and aiohttp: a few hundred inputs, thousands by command.

Without Node the other three judge, and a test says so by being skipped.
"""

from __future__ import annotations

import asyncio

import fuzz_differential as differential
import pytest
from fuzz_targets import TARGETS

SEED = 11
COUNT = 300
GOOD = b"POST /a HTTP/1.1\r\nHost: a\r\nVia: 1.1 fairlead-x\r\nContent-Length: 5\r\n\r\nhello"


async def _judge(streams: list[bytes], node: bool) -> list[tuple[bytes, str]]:
    return differential.disagreements(streams, node=node)


def _check(inputs: list[bytes]) -> differential.Batch:
    result = asyncio.run(differential.check(inputs))
    assert not result.faults, "\n".join(f"{fault[:700]}\n{data[:2_000]!r}" for data, fault in result.faults)
    return result


def test_all_read_the_forwarded_part_of_the_corpus_alike() -> None:
    result = _check([data for _, data in TARGETS["request"].corpus()])
    assert result.forwarded >= 20


def test_all_read_what_is_forwarded_of_mutants_alike() -> None:
    result = _check(differential.inputs(SEED, COUNT))
    assert result.forwarded >= COUNT // 3


def test_node_is_among_the_judges() -> None:
    if differential.NODE is None:
        pytest.skip("no node on this machine: the differential check went without it")
    assert asyncio.run(_judge([GOOD, GOOD * 3], True)) == []


@pytest.mark.parametrize(("stream", "who"), [
    (GOOD.replace(b"Via", b"X: a\nY: b\r\nVia"), {"llhttp", "node", "aiohttp", "h11"}),
    (GOOD.replace(b"Via", b"X: a\r\n b\r\nVia"), {"llhttp", "node", "aiohttp", "h11"}),
    (GOOD.replace(b"Via", b"X : a\r\nVia"), {"llhttp", "node", "aiohttp", "h11"}),
    (GOOD.replace(b"Via", b"Connection: close\r\nVia") + GOOD, {"llhttp", "node", "aiohttp", "h11"}),
    (GOOD.replace(b"Via", b"Upgrade: x\r\nConnection: upgrade\r\nVia"), {"llhttp", "node"}),
    (GOOD.replace(b"Via", b"Host: b\r\nVia"), {"aiohttp", "h11"}),
])  # fmt: skip
def test_a_judge_that_reads_something_else_is_heard(stream: bytes, who: set[str]) -> None:
    found = asyncio.run(_judge([GOOD, stream], differential.NODE is not None))
    assert {data for data, _ in found} == {stream}
    heard = {said.partition(" ")[0].rstrip(":") for _, said in found}
    assert heard == (who if differential.NODE is not None else who - {"node"})
