"""Trace readers: each format becomes the requests that stand in it, and a wrong file is told by line and field."""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_samples import (
    AZURE_FILE,
    AZURE_HEADER,
    AZURE_LINES,
    MOONCAKE_FILE,
    access,
    header,
    mooncake,
    recorded,
    write,
)

from fairlead.sim.readers import TraceError, lines, read, read_file, read_trace
from fairlead.sim.readers.ours import Recording
from fairlead.sim.readers.spread import find_tick
from fairlead.sim.trace import FAILED, OK, REFUSED, UNFINISHED, Measured, Trace

PAGE = Path(__file__).resolve().parents[2] / "docs" / "traces.md"

TICKS = [mooncake(at) for at in (0, 0, 0, 2999, 3000, 6000, 12_001, 12_000)]
"""A Mooncake file with 3 s ticks, written as the published one: some a millisecond early, or late."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace.x"


def refusal(path: Path, *rows: str, **options: Any) -> TraceError:
    with pytest.raises(TraceError) as caught:
        read_trace(write(path, rows), **options)
    return caught.value


# --- Mooncake ------------------------------------------------------------------------------------------------


def test_mooncake_lines_become_requests_with_their_full_blocks(file: Path) -> None:
    trace = read_trace(write(file, [mooncake(500, 1_100, 20, (0, 7, 9)), mooncake(900, 1_024, 0, (0, 7))]))
    first, second = trace.requests
    assert (trace.block_tokens, first.at, first.prompt, first.output) == (512, 0.0, 1_100, 20)
    assert (second.at, second.prompt, second.output) == (0.4, 1_024, 0)
    assert first.blocks == second.blocks  # the third block of the first is not full
    assert len(set(first.blocks)) == 2
    assert not trace.measured


def test_mooncake_ids_become_keys_that_are_spread_over_64_bits(file: Path) -> None:
    trace = read_trace(write(file, [mooncake(0, 512 * 1_000, ids=range(1_000))]))
    tops = Counter(block >> 60 for block in trace.requests[0].blocks)
    assert len(tops) == 16 and max(tops.values()) < 120


def test_ticks_are_found_in_the_data_and_spread(file: Path) -> None:
    trace = read_trace(write(file, TICKS))
    times = [request.at for request in trace.requests]
    assert [time // 3.0 for time in times] == [0, 0, 0, 1, 1, 2, 4, 4]
    assert times == sorted(times) and len(set(times)) == len(times)
    assert any("rounded to 3 s" in note and "at random" in note and "seed 1" in note for note in trace.notes)


def test_the_seed_decides_how_ticks_are_spread(file: Path) -> None:
    source = write(file, TICKS)
    assert read_trace(source, seed=1) == read_trace(source, seed=1)
    assert read_trace(source, seed=1).requests != read_trace(source, seed=2).requests


def test_ticks_can_be_spread_evenly_or_left(file: Path) -> None:
    source = write(file, TICKS)
    even, raw = read_trace(source, spread="even"), read_trace(source, spread="none")
    assert [request.at for request in even.requests] == [0, 1, 2, 3, 4.5, 6, 12, 13.5]
    assert [request.at for request in raw.requests] == [0, 0, 0, 2.999, 3, 6, 12.0, 12.001]
    assert "evenly" in even.notes[-1] and "left so" in raw.notes[-1]


@pytest.mark.parametrize(
    ("times", "tick"),
    [
        ([0, 0, 3, 5.999, 6, 12.001], 3.0),
        ([0, 0, 5, 10, 25], 5.0),
        ([0, 0, 1, 2], 1.0),
        ([0, 0, 0.5, 1.0], None),  # finer than a second
        ([0, 0, 3, 6.004], None),  # beside the tick
        ([0, 1, 2, 3], None),  # nobody shares one
        ([0, 0, 0, 60], None),  # one gap is no evidence
        ([0, 0, 90, 180], None),  # longer than a minute
        ([0], None),
    ],
)
def test_a_tick_is_what_divides_all_gaps(times: list[float], tick: float | None) -> None:
    assert find_tick(times) == tick


# --- Azure ---------------------------------------------------------------------------------------------------


def test_azure_lines_become_requests_without_blocks(file: Path) -> None:
    trace = read_trace(write(file, AZURE_LINES))
    assert [(r.at, r.prompt, r.output) for r in trace.requests] == [(0.0, 4_808, 10), (0.052, 110, 27), (2.5, 3_180, 0)]
    assert all(request.blocks == () for request in trace.requests)
    assert "no request shares" in trace.notes[0]


def test_azure_columns_may_stand_in_any_order_and_times_may_have_a_zone(file: Path) -> None:
    rows = [
        "GeneratedTokens,x,TIMESTAMP,ContextTokens",
        "5,,2024-05-10 00:00:00+00:00,7",
        "6,,2024-05-10 02:00:01+02:00,8",
    ]
    trace = read_trace(write(file, rows))
    assert [(r.at, r.prompt, r.output) for r in trace.requests] == [(0.0, 7, 5), (1.0, 8, 6)]


# --- the access log ------------------------------------------------------------------------------------------


def test_the_access_log_becomes_requests_in_order_of_arrival_with_what_was_measured(file: Path) -> None:
    rows = [
        access(1_700_000_009.0, 30, 3, backend=None, outcome="refused", status=503, ttft=None),
        access(1_700_000_005.5, 10, 1),
        access(1_700_000_007.0, None, None, path="/v1/models"),
        access(1_700_000_006.0, 20, 2, outcome="failed", status=502),
        access(1_700_000_008.0, 25, None, path="/v1/embeddings"),
        access(1_700_000_008.5, 26, 4, outcome="client_gone", status=499),
        access(1_700_000_008.7, 27, None, outcome="failed", status=500),
    ]
    trace = read_trace(write(file, rows))
    assert [(r.at, r.prompt, r.output) for r in trace.requests] == [
        (0.0, 10, 1),
        (0.5, 20, 2),
        (2.5, 25, 0),
        (3.0, 26, 4),
        (3.5, 30, 3),
    ]
    assert [m.status for m in trace.measured] == [OK, FAILED, OK, UNFINISHED, REFUSED]
    assert trace.measured[0] == Measured("a", 0.25, 2.5, None, OK)
    assert trace.measured[-1].backend == "" and trace.measured[-1].ttft is None
    assert trace.requests[0].model == "m"
    assert any("2 lines without token counts" in note for note in trace.notes)


def test_an_access_log_without_any_token_count_is_no_trace(file: Path) -> None:
    error = refusal(file, access(1.0, None, None))
    assert "no request that can be replayed" in str(error) and "one line without token counts" in str(error)


def test_an_access_log_for_people_is_told_apart(file: Path) -> None:
    error = refusal(file, "2025-01-01T00:00:00.000Z 192.0.2.1 POST /v1 200 backend=a model=m tries=1 outcome=ok id=x")
    assert "--log-format json" in str(error)


# --- recordings ----------------------------------------------------------------------------------------------

A, B, C, D = (digit * 16 for digit in "abcd")


def test_a_recording_becomes_requests_with_all_that_it_says(file: Path) -> None:
    rows = [header(), recorded(2.0, 64, 256, (A,), (256,), session="s1"), recorded(0.5, 10, 40, model=None, ttft=None)]
    trace = read_trace(write(file, rows))
    first, second = trace.requests
    assert (first.at, first.prompt, first.output, first.blocks, first.model) == (0.0, 10, 12, (), "")
    assert (second.at, second.prompt, second.session, second.tenant) == (1.5, 64, "s1", "ab12")
    assert (second.max_tokens, len(second.blocks), trace.block_tokens) == (64, 4, 16)
    assert trace.measured == [Measured("a", None, 3.0, 32), Measured("a", 0.5, 3.0, 32)]


def test_files_of_a_rotated_recording_can_be_put_one_behind_the_other(file: Path) -> None:
    rows = [header(100.0), recorded(5.0, 10, 40), header(160.0), recorded(1.0, 11, 44)]
    assert [(r.at, r.prompt) for r in read_trace(write(file, rows)).requests] == [(0.0, 10), (56.0, 11)]
    error = refusal(file, header(100.0), recorded(5.0, 10, 40), header(version=2))
    assert error.line == 3 and "version 1" in str(error)


def test_a_recording_of_another_version_or_without_its_header_says_so(file: Path) -> None:
    assert "reads version 1, got 7" in str(refusal(file, header(version=7), recorded(0, 10, 40)))
    assert "without its header" in str(refusal(file, recorded(0, 10, 40)))


def test_requests_without_a_token_count_are_left_out_and_counted(file: Path) -> None:
    rows = [header(), recorded(0, 0, 0), recorded(1, 5, 20, output_tokens=None), recorded(2, 5, 20, prompt_tokens=None)]
    trace = read_trace(write(file, rows))
    assert [(r.prompt, r.output) for r in trace.requests] == [(5, 0)]
    assert "Left out 2 lines without a prompt's token count." in trace.notes


def shared_start(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def token_blocks(path: Path, *rows: str) -> list[Sequence[int]]:
    return [request.blocks for request in read_trace(write(path, [header(), *rows])).requests]


def test_prompts_share_the_token_blocks_below_the_byte_up_to_which_they_share_recorded_ones(file: Path) -> None:
    # 4 bytes per token, so byte 1,000 is token 250: 15 token blocks end at or below it, the 16th does not
    one, two = token_blocks(
        file,
        recorded(0, 1_000, 4_000, (A, B, C), (1_000, 2_000, 4_000)),
        recorded(1, 500, 2_000, (A, D), (1_000, 2_000)),
    )
    assert (len(one), len(two)) == (62, 31)
    assert shared_start(one, two) == 15
    assert not set(one[15:]) & set(two[15:])


def test_a_shared_beginning_is_shared_whatever_the_rest_weighs(file: Path) -> None:
    # the second prompt's rest has 2 bytes per token, the third's 10: all agree on the tokens below byte 4,096
    one, two, three = token_blocks(
        file,
        recorded(0, 1_100, 4_400, (A, B), (4_096, 4_400)),
        recorded(1, 3_072, 8_192, (A, C), (4_096, 8_192)),
        recorded(2, 1_434, 8_192, (A, D), (4_096, 8_192)),
    )
    assert shared_start(one, two) == shared_start(one, three) == shared_start(two, three) == 1_024 // 16
    assert (len(two), len(three)) == (3_072 // 16, 1_434 // 16)


def test_what_lies_behind_the_recorded_blocks_has_no_name_and_the_last_one_may_end_behind_the_prompt(
    file: Path,
) -> None:
    known, long_end = token_blocks(
        file, recorded(0, 1_000, 4_000, (A,), (1_024,)), recorded(1, 1_000, 4_000, (B,), (4_096,))
    )
    assert (len(known), len(long_end)) == (256 // 16, 1_000 // 16)


def test_a_recorded_block_holds_no_more_token_blocks_than_its_prompt(file: Path) -> None:
    reader = Recording()
    row = reader.row(recorded(0, 1_000, 40, (A, B), (1_000, 900_000)).encode())
    assert row is not None and len(row[0].blocks) == 62
    assert sum(len(blocks) for _, blocks in reader._blocks.values()) == 62


def test_models_share_nothing(file: Path) -> None:
    one, two = token_blocks(file, recorded(0, 64, 256, (A,), (256,)), recorded(1, 64, 256, (A,), (256,), model="other"))
    assert len(one) == len(two) == 4 and not set(one) & set(two)


@given(st.integers(0, 2**32), st.integers(2, 12))
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_tree_of_prompts_shares_exactly_what_lies_below_the_last_common_recorded_block(seed: int, count: int) -> None:
    """Whatever the ratios of tokens to bytes, and whatever the blocks' lengths."""
    rng = random.Random(seed)
    reader = Recording()
    ends = [0]
    for _ in range(6):
        ends.append(ends[-1] + rng.randint(1, 3_000))
    prompts: list[tuple[list[int], Sequence[int]]] = []
    tokens_at: dict[int, int] = {}  # recorded block -> tokens up to its end, by rule 1
    for number in range(count):
        base = rng.choice(prompts)[0] if prompts else []
        names = base[: rng.randint(0, len(base))]
        names = names + [number * 100 + place for place in range(len(names), rng.randint(max(len(names), 1), 6))]
        size = ends[len(names)]
        before = [tokens_at[name] for name in names if name in tokens_at]
        prompt = max(1, (before[-1] if before else 0) + rng.randint(0, size // 2))
        blocks = [f"{name:016x}" for name in names]
        row = reader.row(recorded(0, prompt, size, blocks, ends[1 : len(names) + 1]).encode())
        assert row is not None
        found = row[0].blocks
        known, start = (before[-1] if before else 0), ends[len(before)]
        for place in range(len(before), len(names)):
            share = (prompt - known) * (ends[place + 1] - ends[place]) // (size - start)
            known, start = known + share, ends[place + 1]
            tokens_at[names[place]] = known
        assert len(found) == min(prompt, known) // 16  # `known` is more or less where an equal prompt came before
        assert len(set(found)) == len(found)
        for others, blocks_of_other in prompts:
            common = shared_start(names, others)
            below = tokens_at[names[common - 1]] // 16 if common else 0
            assert shared_start(found, blocks_of_other) == min(below, len(found), len(blocks_of_other))
        prompts.append((names, found))


# --- what is common to all -----------------------------------------------------------------------------------

SAMPLES = {
    "mooncake": [mooncake(0), mooncake(100), mooncake(250, 2_000, 7, (0, 5, 6))],
    "azure": list(AZURE_LINES),
    "access": [access(1.0), access(2.0), access(3.5, 77, 7)],
    "recording": [header(), recorded(0, 9, 40), recorded(1, 64, 256, (A,), (256,)), recorded(2, 80, 300)],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_same_requests_come_from_a_plain_and_a_packed_file_whatever_its_name(name: str, tmp_path: Path) -> None:
    plain = read_trace(write(tmp_path / "a.bin", SAMPLES[name]))
    assert len(plain.requests) == 3
    for other, packed in (("b", True), ("c.csv", False), ("d.jsonl.gz", False), ("e.txt", True)):
        again = read_trace(write(tmp_path / other, SAMPLES[name], packed=packed))
        assert (again.requests, again.measured, again.notes) == (plain.requests, plain.measured, plain.notes)


@pytest.mark.parametrize("name", SAMPLES)
def test_empty_lines_other_line_ends_and_a_byte_order_mark_do_not_matter(name: str, tmp_path: Path) -> None:
    plain = read_trace(write(tmp_path / "a", SAMPLES[name]))
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf\r\n" + "\r\n\r\n".join(SAMPLES[name]).encode() + b"\r\n\r\n")
    assert read_trace(str(tmp_path / "b")).requests == plain.requests


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_in_its_last_line_is_read_up_to_there(name: str, tmp_path: Path) -> None:
    rows = SAMPLES[name]
    for keep in (1, len(rows[-1]) // 2, rows[-1].rindex("," if name == "azure" else "}")):
        reading = read_file(write(tmp_path / "a", [*rows[:-1], rows[-1][:keep]], ended=False))
        assert len(reading.trace.requests) == 2 and reading.cut and reading.skipped == 0
        assert "stops in the middle of a line" in reading.trace.notes[-1]
    whole = read_file(write(tmp_path / "b", rows, ended=False))  # only the end of line is missing
    assert len(whole.trace.requests) == 3 and not whole.cut


def test_a_packed_file_that_was_cut_is_read_up_to_there(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [mooncake(at * 100, ids=[rng.getrandbits(40) for _ in range(9)]) for at in range(2_000)]
    data = Path(write(tmp_path / "whole", rows, packed=True)).read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    reading = read_file(str(tmp_path / "cut"))
    count = len(reading.trace.requests)
    assert reading.cut and 800 < count < 1_200
    assert reading.trace.requests == read_trace(str(tmp_path / "whole")).requests[:count]


def test_broken_packed_data_is_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(("\n".join(SAMPLES["mooncake"]) + "\n").encode(), mtime=0))
    data[-6] ^= 0xFF  # its checksum
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(TraceError, match="broken gzip"):
        read_trace(str(tmp_path / "a"))
    (tmp_path / "b").write_bytes(data[:10] + b"\xff" * 40)
    with pytest.raises(TraceError, match="broken gzip"):
        read_trace(str(tmp_path / "b"))


def test_limit_keeps_the_first_requests_that_arrive(file: Path) -> None:
    source = write(file, TICKS)
    assert read_trace(source, limit=4).requests == read_trace(source).requests[:4]
    assert "Only its first 4 requests." in read_trace(source, limit=4).notes
    assert read_trace(source, limit=8) == read_trace(source)
    late_first = write(file, [access(9.0, 30), access(1.0, 10), access(2.0, 20)])
    limited = read_trace(late_first, limit=2)
    assert [request.prompt for request in limited.requests] == [10, 20] and len(limited.measured) == 2


def test_a_limit_saves_reading_a_long_file_to_its_end(file: Path) -> None:
    rows = [mooncake(at * 3_000) for at in range(2_000) for _ in range(3)]
    whole = read_trace(write(file, rows), spread="even")
    source = write(file, [*rows[:4_000], "nonsense", *rows[4_000:]])
    for limit in (1, 2_500, 2_501):  # in the middle of a tick, too
        assert read_trace(source, limit=limit, spread="even").requests == whole.requests[:limit]
    with pytest.raises(TraceError):
        read_trace(source)


def test_speedup_divides_times(file: Path) -> None:
    source = write(file, SAMPLES["mooncake"])
    fast = read_trace(source, speedup=4)
    assert [request.at for request in fast.requests] == [r.at / 4 for r in read_trace(source).requests]
    assert "divided by 4" in fast.notes[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"speedup": 0}, "above 0"),
        ({"speedup": float("nan")}, "above 0"),
        ({"speedup": float("inf")}, "above 0"),
        ({"limit": 0}, "at least 1"),
        ({"spread": "rnadom"}, "did you mean 'random'"),
        ({"spread": "xyz"}, "known: random, even, none"),
    ],
)
def test_options_out_of_range_are_refused(file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_trace(write(file, TICKS), **options)


def test_a_trace_is_called_after_its_file(tmp_path: Path) -> None:
    for name, called in (("conv.jsonl.gz", "conv"), ("a.b.csv", "a.b"), (".gz", ".gz"), ("log", "log")):
        assert read_trace(write(tmp_path / name, SAMPLES["mooncake"])).name == called


# --- broken lines --------------------------------------------------------------------------------------------

BROKEN = [
    ("mooncake", "nonsense", "not valid JSON"),
    ("mooncake", "[1, 2]", "expected a JSON object, got [1, 2]"),
    ("mooncake", "[" * 100_000, "not valid JSON"),
    ("mooncake", '{"timestamp": 1, "input_length": 5, "output_length": 5}', "field 'hash_ids' is missing"),
    ("mooncake", mooncake(-1), "timestamp: expected a number from 0 to 1e+11, got -1"),
    ("mooncake", mooncake(float("nan")), "not valid JSON"),
    ("mooncake", mooncake(float("inf")), "not valid JSON"),
    ("mooncake", mooncake(1e30), "timestamp: expected a number"),
    ("mooncake", mooncake(1).replace('"timestamp": 1', '"timestamp": 1e999'), "JSON"),
    ("mooncake", mooncake(1, prompt=0), "input_length: expected a whole number from 1 to 10,000,000, got 0"),
    ("mooncake", mooncake(1, prompt=10**30), "input_length: expected a whole number"),
    ("mooncake", mooncake(1, output=-3), "output_length: expected a whole number from 0 to 10,000,000, got -3"),
    ("mooncake", mooncake(1, input_length="7"), "input_length: expected a whole number from 1 to 10,000,000, got '7'"),
    ("mooncake", mooncake(1, input_length=1.5), "got 1.5"),
    ("mooncake", mooncake(1, input_length=True), "got True"),
    ("mooncake", mooncake(1, hash_ids="x" * 500), "hash_ids: expected a list, got '" + "x" * 40 + "...'"),
    ("mooncake", mooncake(1, ids=(0, -1, 2)), "hash_ids: expected whole numbers of at most 64 bits, got -1"),
    ("mooncake", mooncake(1, ids=(0, [5])), "got [5]"),
    ("azure", "2023-11-16 18:17:03.97,12", "expected 3 columns, got 2"),
    ("azure", "yesterday,12,3", "TIMESTAMP: expected a number"),
    ("azure", "2023-11-16 18:17:03,0,3", "ContextTokens: expected a whole number from 1"),
    ("azure", "2023-11-16 18:17:03,nan,3", "ContextTokens: expected a whole number from 1 to 10,000,000, got 'nan'"),
    ("azure", "2023-11-16 18:17:03,5,-3", "GeneratedTokens: expected a whole number from 0 to 10,000,000, got -3"),
    ("azure", "2023-11-16 18:17:03,5,1e3", "GeneratedTokens: expected a whole number"),
    ("azure", "2023-11-16 18:17:03,5,99999999999999999999999", "GeneratedTokens: expected a whole number"),
    ("access", access(-1.0), "time: expected a number from 0"),
    ("access", access(1.0, duration=-2), "duration: expected a number"),
    ("access", access(1.0, prompt=-4), "prompt_tokens: expected a whole number from 1"),
    ("access", access(1.0, status="x"), "status: expected a whole number from 0 to 999, got 'x'"),
    ("access", access(1.0, model=7), "model: expected a text of at most 1000 characters, got 7"),
    ("recording", recorded(-1, 9, 40), "at: expected a number"),
    ("recording", recorded(1, 9, -1), "prompt_bytes: expected a whole number"),
    ("recording", recorded(1, 9, 40, (A,), ()), "blocks and ends: expected as many of both, got 1 and 0"),
    ("recording", recorded(1, 9, 40, ("xyz",), (5,)), "blocks: expected hashes of 16 hexadecimal digits, got ['xyz']"),
    ("recording", recorded(1, 9, 40, ("z" * 16,), (5,)), "blocks: expected hashes of 16 hexadecimal digits"),
    ("recording", recorded(1, 9, 40, (5,), (5,)), "blocks: expected hashes"),  # type: ignore[arg-type]
    ("recording", recorded(1, 9, 40, (A, B), (8, 8)), "ends: expected rising numbers of bytes, got 8 after 8"),
    ("recording", recorded(1, 9, 40, (A,), (0,)), "ends: expected rising numbers of bytes, got 0 after 0"),
    ("recording", recorded(1, 9, 40, (A,), ("9",)), "ends: expected rising numbers of bytes, got '9' after 0"),
    ("recording", recorded(1, 9, 40, tenant=[1]), "tenant: expected a text"),
]


@pytest.mark.parametrize(("name", "row", "said"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_told_by_file_line_and_field_or_skipped(name: str, row: str, said: str, file: Path) -> None:
    rows = SAMPLES[name]
    with_bad = [*rows[:-1], row, rows[-1]]
    error = refusal(file, *with_bad)
    assert str(error).startswith(f"{file}:{len(rows)}: ") and said in str(error)
    assert (error.file, error.line) == (str(file), len(rows)) and len(str(error)) < len(str(file)) + 300
    reading = read_file(write(file, [*with_bad, row]), skip_bad=True)
    assert reading.skipped == 2 and reading.first_skipped.startswith(f"line {len(rows)}: ")
    assert len(reading.trace.requests) == 3 and any("Skipped 2 broken lines" in note for note in reading.trace.notes)


def test_a_last_line_that_is_whole_but_wrong_is_no_cut(file: Path) -> None:
    with pytest.raises(TraceError, match="got -1"):
        read_trace(write(file, [mooncake(0), mooncake(-1)], ended=False))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty; known: Mooncake"),
        (b"\n \n\n", "is empty; known: Mooncake"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b"x" * 9_000)[:12], "has no whole line"),
        (b"hello\n", "unknown format: the file begins with 'hello'; known: Mooncake"),
        (b"a,b,c\n1,2,3\n", "unknown format"),
        (b"[\n", "unknown format"),
        (b'{"a": 1, "b": 2}\n', "unknown format: a JSON object with the fields 'a, b'"),
        (b'{"timestamp": 1, "input_le', "not valid JSON"),
        (b"\xff\xfe{\x00", "unknown format"),
        (AZURE_HEADER.encode() + b"\n", "no request that can be replayed"),
        (header().encode() + b"\n", "no request that can be replayed"),
    ],
)
def test_a_file_that_is_no_trace_says_what_is_known(file: Path, data: bytes, said: str) -> None:
    file.write_bytes(data)
    with pytest.raises(TraceError) as caught:
        read_trace(str(file))
    assert said in str(caught.value) and str(caught.value).startswith(f"{file}:")


def test_a_file_that_begins_in_mid_line_can_be_read_with_skip_bad(file: Path) -> None:
    rows = ['id": "x", "outcome": "ok"}', access(1.0), access(2.0)]
    assert "unknown format" in str(refusal(file, *rows))
    reading = read_file(write(file, rows), skip_bad=True)
    assert (len(reading.trace.requests), reading.skipped) == (2, 1)
    assert refusal(file, *["nonsense"] * 1_000, skip_bad=True).line == 101


def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "conversation.jsonl", TICKS)
    for name, said in (
        (tmp_path / "conversatoin.jsonl", f"no such file; did you mean {str(tmp_path / 'conversation.jsonl')!r}?"),
        (tmp_path / "q", "no such file; name a trace file, or a workload such as 'chat'"),
        (tmp_path / "gone" / "x", "nor is there a directory"),
        (tmp_path, "is a directory; name a trace file"),
        (tmp_path / "conversation.jsonl" / "x", "cannot be opened: Not a directory"),
        ("a\0b", "cannot be opened"),
    ):
        with pytest.raises(TraceError) as caught:
            read_trace(str(name))
        assert said in str(caught.value) and caught.value.line == 0


def test_a_line_without_an_end_is_refused_whatever_the_caller_says(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1_000)
    rows = [mooncake(0), mooncake(1, ids=range(1_000)), mooncake(2)]
    assert "longer than 16 MiB" in str(refusal(file, *rows, skip_bad=True))


def test_a_small_packed_file_cannot_unpack_to_a_line_without_bounds(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    block = b" " * (1 << 20)
    data = b"".join(packer.compress(block) for _ in range(20)) + packer.flush()
    (tmp_path / "bomb").write_bytes(data)
    assert len(data) < 100_000
    with pytest.raises(TraceError, match="1: longer than 16 MiB"):
        read_trace(str(tmp_path / "bomb"))


def test_too_many_requests_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_REQUESTS", 3)
    assert refusal(file, *TICKS).line == 4
    assert len(read_trace(write(file, TICKS[:3])).requests) == 3
    monkeypatch.undo()
    monkeypatch.setattr(read, "MAX_BLOCKS", 5)
    assert "more than 5 blocks" in str(refusal(file, *TICKS))


@given(st.binary(max_size=300), st.sampled_from(sorted(SAMPLES)), st.integers(0, 400), st.booleans())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_bytes_that_went_wrong_raise_a_trace_error_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, name: str, place: int, skip_bad: bool
) -> None:
    data = "\n".join(SAMPLES[name]).encode()
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(data[:place] + junk + data[place:])
    try:
        trace = read_trace(str(path), skip_bad=skip_bad)
    except TraceError:
        return
    assert well_formed(trace)


def well_formed(trace: Trace) -> bool:
    times = [request.at for request in trace.requests]
    assert times == sorted(times) and times[0] >= 0
    assert len(trace.measured) in (0, len(trace.requests))
    for request in trace.requests:
        assert request.prompt >= 1 and request.output >= 0
        assert len(request.blocks) <= request.prompt // trace.block_tokens
        assert all(0 <= block < 1 << 64 for block in request.blocks)
    return True


# --- the page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mooncake", "azure", "recording", "access"])
def test_the_example_of_each_format_on_the_page_is_read(name: str, file: Path) -> None:
    example = re.search(rf"```{name}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    file.write_text(example[1], encoding="utf-8")
    trace = read_trace(str(file))
    assert well_formed(trace) and len(trace.requests) in (1, 2)
    assert [len(request.blocks) for request in trace.requests] == {
        "mooncake": [13, 2],
        "azure": [0, 0],
        "recording": [7],
        "access": [0],
    }[name]


# --- the published traces ------------------------------------------------------------------------------------


@pytest.mark.skipif(not MOONCAKE_FILE.exists(), reason="the published traces are not here")
def test_the_published_mooncake_trace_is_read_whole() -> None:
    trace = read_trace(str(MOONCAKE_FILE))
    assert well_formed(trace) and len(trace.requests) == 6_000
    assert all(len(request.blocks) == request.prompt // 512 for request in trace.requests)
    assert any("rounded to 3 s" in note for note in trace.notes)
    with gzip.open(MOONCAKE_FILE) as packed:
        rows = [json.loads(line) for line in packed]
    ticks = Counter(round(row["timestamp"] / 3_000) for row in rows)
    assert Counter(int(request.at // 3) for request in trace.requests) == ticks
    ids = {id for row in rows for id in row["hash_ids"][: row["input_length"] // 512]}
    assert len({block for request in trace.requests for block in request.blocks}) == len(ids)
    assert len({request.blocks[0] for request in trace.requests if request.blocks}) == 1  # block 0 is everybody's


@pytest.mark.skipif(not AZURE_FILE.exists(), reason="the published traces are not here")
def test_the_published_azure_trace_is_read_whole() -> None:
    trace = read_trace(str(AZURE_FILE))
    assert well_formed(trace) and len(trace.requests) == 10_000
    assert trace.requests[0].prompt == 374 and trace.requests[-1].output == 83
    assert trace.seconds == pytest.approx(1_787.30928, abs=1e-4)
