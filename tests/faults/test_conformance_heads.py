"""Conformance cases 1 to 14: every payload of the shared table meets its fate, whole and byte by byte.

The table is bench/conformance/payloads.py; `fate` (conformance.py) tells what is wrong, and `judged` (oracle.py)
asserts G1 to G8 behind each case.
"""

from __future__ import annotations

import pytest
from bench.conformance.payloads import PAYLOADS
from oracle import judged
from peers import run

from conformance import fate, of_case

TITLES = {
    1: "a length and a coding",
    2: "a coding other than exactly chunked",
    3: "a length that is not plain digits once",
    4: "a broken chunk",
    5: "a broken field line",
    6: "a request line or host that is not clear",
    7: "pipelines",
    8: "an early refusal",
    9: "expectations",
    10: "hop-by-hop fields",
    11: "answers without a body",
    12: "answers that cannot be trusted",
    13: "trailers",
    14: "paths and names that are not clear",
}


def test_the_table_has_every_case_and_every_row_a_name_of_its_own() -> None:
    assert {payload.case for payload in PAYLOADS} == set(TITLES)
    assert len({payload.id for payload in PAYLOADS}) == len(PAYLOADS)


@pytest.mark.parametrize("by", ["whole", "byte by byte"])
@pytest.mark.parametrize("case", TITLES, ids=[f"{case}: {title}" for case, title in TITLES.items()])
def test_every_payload_meets_its_fate(case: int, by: str) -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            wrong = {}
            for payload in of_case(case):
                pieces = () if by == "whole" else (1,) * min(len(payload.sent) - 1, 2_000)
                if why := await fate(f, oracle, payload, pieces):
                    wrong[payload.name] = why
            assert wrong == {}

    run(body)
