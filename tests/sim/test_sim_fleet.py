"""Fleets and faults as people write them: what is meant is built, what cannot be meant is said, all of it at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairlead.emulator.profiles import PROFILES
from fairlead.sim.fleet import FAULTS, Fault, Fleet, FleetError, check_faults, parse_fault, parse_fleet
from fairlead.sim.fleet_file import read_fleet_file

WHOLE = """\
profiles:
  my-gpu: {like: l4-8b, base: 9ms, prefill: 35us, attention: 1.3ns, kv_read: 0.076us, sequence: 5us,
           kv_tokens: 20000, token_budget: 4096, max_num_seqs: 64, max_model_len: 8192}
  small: {kv_tokens: 5000}
backends:
  - {profile: my-gpu, count: 2, weight: 0.5}
  - {profile: small, slowdown: 1.5}
  - {profile: my-gpu}
faults:
  - slow@60-160:my-gpu-1:4
  - leave@70:my-gpu-3
"""


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    return str(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said of the file, without its name."""
    path = written(tmp_path, text)
    with pytest.raises(FleetError) as found:
        read_fleet_file(path)
    lines = str(found.value).splitlines()
    assert all(line.startswith(path) for line in lines)
    return [line.removeprefix(path) for line in lines]


def fault(text: str) -> str:
    with pytest.raises(FleetError) as found:
        parse_fault(text)
    return str(found.value)


# --- text ------------------------------------------------------------------------------------------------------


def test_machines_are_named_after_their_profile_and_numbered_on() -> None:
    fleet = parse_fleet(" h100-8b:2, l4-8b ,h100-8b:1 ")
    assert [m.name for m in fleet.members] == ["h100-8b-1", "h100-8b-2", "l4-8b-1", "h100-8b-3"]
    assert fleet.text == "h100-8b:2, l4-8b ,h100-8b:1"
    assert fleet.members[2].profile is PROFILES["l4-8b"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "an empty part"),
        ("h100-8b:2,", "an empty part"),
        ("h100:2", "unknown profile 'h100'; did you mean 'h100-8b'?"),
        ("zzz", "unknown profile 'zzz'; known: h100-8b"),
        ("h100-8b:0", "'0' is no number of machines"),
        ("h100-8b:-1", "'-1' is no number of machines"),
        ("h100-8b:2.5", "'2.5' is no number of machines"),
        ("h100-8b:²", "'²' is no number of machines"),
        ("h100-8b:99999999999999", "is no number of machines"),
        ("h100-8b:10000,l4-8b:1", "more than 10000 machines"),
    ],
)
def test_a_fleet_that_cannot_be_meant_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FleetError) as found:
        parse_fleet(text)
    assert sentence in str(found.value)


def test_faults_are_read() -> None:
    assert parse_fault("slow@60-160:h100-8b-1:4.5") == Fault("slow", "h100-8b-1", 60.0, 160.0, 4.5)
    assert parse_fault("slow@0.5:a") == Fault("slow", "a", 0.5, math.inf, 4.0)
    assert parse_fault("crash@1-2:a") == Fault("crash", "a", 1.0, 2.0)
    assert parse_fault(" leave@3:a ") == Fault("leave", "a", 3.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slow", "write KIND@START[-END]:BACKEND[:FACTOR]"),
        ("slo@3:a", "did you mean 'slow'?"),
        ("explode@3:a", "kinds: slow, freeze"),
        ("slow@9-3:a", "it ends before it begins"),
        ("slow@3-3:a", "it ends before it begins"),
        ("slow@1.2.3:a", "write KIND@"),
        ("slow@-5:a", "write KIND@"),
        ("slow@3:a:0", "factor must be between"),
        ("slow@3:a:1" + "0" * 400, "factor must be between"),
        ("join@3-9:a", "join happens at a moment and has no end"),
        ("leave@3-9:a", "leave happens at a moment and has no end"),
        ("reset@3-9:a", "reset happens at a moment and has no end"),
        ("crash@3-9:a:4", "crash has no factor"),
    ],
)
def test_a_fault_that_cannot_be_meant_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    assert sentence in fault(text)


@given(text=st.text(max_size=30) | st.from_regex(r"(slow|crash|join)@[0-9.\-]{0,8}:[a-z:0-9.]{0,8}", fullmatch=True))
def test_any_text_is_a_fault_or_a_fleet_error(text: str) -> None:
    try:
        found = parse_fault(text)
    except FleetError:
        return
    assert found.kind in FAULTS
    assert 0 <= found.at < found.until


def test_a_fault_of_a_backend_that_is_not_there_names_the_nearest() -> None:
    fleet = parse_fleet("h100-8b:2")
    with pytest.raises(FleetError, match="no backend 'h100-8b-9' in the fleet; did you mean 'h100-8b-"):
        fleet.with_faults((Fault("slow", "h100-8b-9", 1.0),))
    with pytest.raises(FleetError, match="there are: h100-8b-1, h100-8b-2"):
        fleet.with_faults((Fault("slow", "zzz", 1.0),))


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ("join@1:a join@2:a", "a joins 2 times; a machine joins once"),
        ("leave@1:a join@2:a", "a leaves before it joins"),
        ("slow@1-9:a slow@20:a slow@5-6:a", "one from 1 s to 9 s and another from 5 s"),
        ("crash@1:a crash@50:a", "must not overlap"),
        ("freeze@1-9:a freeze@8-10:a", "must not overlap"),
        ("join@1:a join@2:b leave@5:a slow@1-9:a slow@9-10:a slow@1:b crash@3-4:a", ""),
    ],
)
def test_faults_that_cannot_both_be_meant_are_refused(faults: str, sentence: str) -> None:
    found = tuple(map(parse_fault, faults.split()))
    if not sentence:
        check_faults(found)
        return
    with pytest.raises(FleetError, match=sentence):
        check_faults(found)


def test_machines_take_the_traces_blocks_and_lose_the_rest_of_a_block() -> None:
    fleet = parse_fleet("l4-8b:2").for_blocks(4_096)
    kind = fleet.members[1].profile
    assert (kind.block_tokens, kind.kv_blocks, kind.max_model_len) == (4_096, 9, 36_864)
    assert parse_fleet("l4-8b:1").for_blocks(16).members[0].profile == PROFILES["l4-8b"]
    with pytest.raises(FleetError, match=r"KV cache of 'l4-8b' \(39000 tokens\) is smaller than one block"):
        fleet.for_blocks(40_000)


@pytest.mark.parametrize("text", ["l4-8b:1,h100-8b:1", "h100-8b:1,l4-8b:1"])
def test_the_first_machine_that_is_too_small_is_named(text: str) -> None:
    with pytest.raises(FleetError, match=f"KV cache of '{text.partition(':')[0]}'"):
        parse_fleet(text).for_blocks(500_000)


# --- a file ----------------------------------------------------------------------------------------------------


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    fleet = read_fleet_file(path)
    assert fleet.text == path
    assert [m.name for m in fleet.members] == ["my-gpu-1", "my-gpu-2", "small-1", "my-gpu-3"]
    assert [m.weight for m in fleet.members] == [0.5, 0.5, None, None]
    assert [m.slowdown for m in fleet.members] == [1.0, 1.0, 1.5, 1.0]
    mine, small = fleet.members[0].profile, fleet.members[2].profile
    assert (mine.base, mine.prefill, mine.attention) == pytest.approx((9e-3, 35e-6, 1.3e-9))
    assert (mine.kv_read, mine.sequence) == pytest.approx((0.076e-6, 5e-6))
    assert (mine.kv_tokens, mine.token_budget, mine.max_num_seqs, mine.max_model_len) == (20_000, 4_096, 64, 8_192)
    assert small.base == PROFILES["h100-8b"].base, "like the h100-8b where it says nothing"
    assert small.max_model_len == 4_992, "a smaller cache holds no longer requests"
    assert fleet.faults == (parse_fault("slow@60-160:my-gpu-1:4"), parse_fault("leave@70:my-gpu-3"))


def test_a_file_may_have_machines_alone(tmp_path: Path) -> None:
    fleet = read_fleet_file(written(tmp_path, "backends: [{profile: l4-8b, count: 3}]"))
    assert fleet.members == parse_fleet("l4-8b:3").members


def test_all_problems_are_said_at_once_with_their_paths(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "profiles:\n  mine: {like: h100-8b, prefil: 3us, base: 7, kv_tokens: many}\n  other: {like: h100}\n"
        "backends:\n  - {profile: mine, count: 2}\n  - {profile: mime, cuont: 2}\n  - {profile: l4-8b, count: 0}\n"
        "  - {profile: l4-8b, weight: -1, slowdown: true}\n"
        "faults: [slow@9-3:mine-1, slow@1:mine-1, slow@2:mine-1]\nbackend: 3\n",
    )
    assert [line.partition(": ")[2] for line in found] == [
        "backend: unknown; did you mean 'backends'?",
        "profiles.mine.prefil: unknown; did you mean 'prefill'?",
        "profiles.mine.base: expected a time with its unit, such as 6.8ms or 20us, got 7",
        "profiles.mine.kv_tokens: expected a whole number from 1 to 1000000000, got 'many'",
        "profiles.other.like: unknown profile 'h100'; did you mean 'h100-8b'?",
        "backends[1].cuont: unknown; did you mean 'count'?",
        "backends[1].profile: unknown profile 'mime'; did you mean 'mine'?",
        "backends[2].count: expected a whole number from 1 to 10000, got 0",
        "backends[3].weight: expected a number from 0.001 to 1000, got -1",
        "backends[3].slowdown: expected a number from 0.01 to 1e+06, got True",
        "faults[0]: fault 'slow@9-3:mine-1': it ends before it begins",
        "faults: fault slow: mine-1 has one from 1 s to inf s and another from 2 s; they must not overlap",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ": expected a table with profiles, backends, faults, got None"),
        ("- a", ": expected a table with profiles, backends, faults, got ['a']"),
        ("backends: []", ": backends: expected a list such as"),
        ("backends: {a: 1}", ": backends: expected a list such as"),
        ("backends: [3]", ": backends[0]: expected a table with profile, count, weight, slowdown, got 3"),
        ("profiles: 3\nbackends: [{profile: l4-8b}]", ": profiles: expected a table of profiles by their names, got 3"),
        ("profiles: {1: {}}\nbackends: [{profile: l4-8b}]", ": profiles.1: expected a name of letters"),
        ("profiles: {'a:b': {}}\nbackends: [{profile: l4-8b}]", ": profiles.a:b: expected a name of letters"),
        ("profiles: {x: }\nbackends: [{profile: x}]", ": profiles.x: expected a table with like, base"),
        ("profiles: {x: {base: 0ms}}\nbackends: [{profile: x}]", ": profiles.x.base: expected more than 0"),
        ("profiles: {x: {base: 5000s}}\nbackends: [{profile: x}]", ": profiles.x.base: expected a time"),
        (
            "profiles: {x: {block_tokens: 32}}\nbackends: [{profile: x}]",
            ": profiles.x.block_tokens: unknown; did you mean 'kv_tokens'?",
        ),
        (
            "profiles: {x: {max_model_len: 500000}}\nbackends: [{profile: x}]",
            ": profiles.x: max_model_len 500000 does not fit the KV cache",
        ),
        ("profiles: {x: {kv_tokens: 5}}\nbackends: [{profile: x}]", ": profiles.x: kv_tokens must hold at least one"),
        ("backends: [{profile: l4-8b}]\nfaults: slow", ": faults: expected a list such as"),
        ("backends: [{profile: l4-8b}]\nfaults: [{a: 1}]", ": faults[0]: fault "),
        ("backends: [{profile: l4-8b}]\nfaults: [slow@1:l4-8b-2]", ": faults: fault slow: no backend 'l4-8b-2'"),
        (
            "backends: [{profile: l4-8b, count: 9999}, {profile: l4-8b, count: 2}]",
            ": backends[1]: with these there are more than 10000 machines",
        ),
        ("a: 1\nb: [", ":2: not YAML: "),
        ("a: 1\nb: 2024-99-99", ":1: not YAML: month must be in 1..12"),
        ("[" * 3_000, ":1: not YAML: "),
        ("a: !!python/name:os.system", ":1: not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(line.startswith(sentence) for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_who_uses_a_broken_profile_is_not_blamed(tmp_path: Path) -> None:
    found = problems(tmp_path, "profiles: {x: {base: soon}}\nbackends: [{profile: x}]")
    assert len(found) == 1


def test_a_file_that_is_not_there_or_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"nowhere\.yaml: No such file"):
        read_fleet_file(str(tmp_path / "nowhere.yaml"))
    assert problems(tmp_path, "#" * 2_000_000) == [": larger than 1048576 bytes: this is no fleet file"]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("l4-8b")
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["profiles", "backends", "faults", "profile", "like", "base", "x"]), inner)
    ),
    max_leaves=12,
)


@given(document=anything)
def test_any_document_is_a_fleet_or_a_fleet_error(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(document), "utf-8")
    try:
        found = read_fleet_file(str(file))
    except FleetError:
        return
    assert isinstance(found, Fleet)
    assert found.members
