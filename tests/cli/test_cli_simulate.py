"""`fairlead simulate`: what it prints, that it repeats itself byte for byte, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fairlead.cli.simulate import simulate
from fairlead.core.policies.registry import POLICIES
from fairlead.sim.rivals.registry import RIVALS

SMALL = "chat:rate=2,seconds=20"
DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, [*arguments, "--jobs", "1"])


def test_a_table_has_a_row_for_each_policy_and_says_what_was_run() -> None:
    done = run(SMALL, "--fleet", "h100-8b:2", "--policy", "round_robin", "--policy", "lmetric")
    assert done.exit_code == 0, done.output
    assert "round_robin" in done.stdout
    assert "lmetric" in done.stdout
    assert "reference" in done.stdout
    assert "h100-8b:2" in done.stdout
    assert "times as fast as real time" in " ".join(done.stderr.split())


def test_json_has_every_run_and_nothing_that_depends_on_the_machine() -> None:
    done = run(SMALL, "--fleet", "h100-8b:2", "--seed", "1..2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "fairlead.simulation/1"
    assert len(found["runs"]) == 6, "three policies, two seeds"
    assert "wall" not in done.stdout


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed_and_the_number_of_processes() -> None:
    answers = set()
    for hash_seed, jobs in (("1", "1"), ("2", "2")):
        command = [sys.executable, "-m", "fairlead", "simulate", SMALL, "--fleet", "h100-8b:1,l4-8b:1", "--json"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([*command, "--jobs", jobs], env=environment, capture_output=True, check=True, timeout=100)
        answers.add(done.stdout)
    assert len(answers) == 1
    other = run(SMALL, "--fleet", "h100-8b:1,l4-8b:1", "--json", "--seed", "2")
    assert other.stdout_bytes not in answers, "the seed does something"


def test_a_report_is_one_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run(SMALL, "--policy", "random", "--report", str(page))
    assert done.exit_code == 0, done.output
    assert page.read_text().startswith("<!doctype html>")
    assert "No --fleet given: h100-8b:4." in done.stderr


def test_options_of_a_policy_count() -> None:
    done = run(SMALL, "--policy", "expected_completion:throughput=0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"][0]["policy"] == "expected_completion:throughput=0"


def test_several_rates_are_several_traces() -> None:
    done = run(SMALL, "--policy", "random", "--speedup", "1", "--speedup", "4", "--json")
    assert len({row["trace"] for row in json.loads(done.stdout)["runs"]}) == 2


def test_lists_are_complete() -> None:
    policies = run("--list-policies").stdout
    assert all(name in policies for name in (*POLICIES, *RIVALS))
    assert policies.count("(reference)") == len(RIVALS)
    assert "h100-70b-tp4" in run("--profiles").stdout
    assert "agents" in run("--workloads").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a trace file or a workload"),
        (["nowhere.jsonl"], "no such file, and no workload"),
        (["caht"], "did you mean"),
        (["chat:rte=3"], "did you mean 'rate'?"),
        ([SMALL, "--policy", "lmetrik"], "did you mean 'lmetric'?"),
        ([SMALL, "--policy", "expected_completion:thruput=1"], "it takes throughput"),
        ([SMALL, "--policy", "expected_completion:throughput=7"], "between 0 and 1"),
        ([SMALL, "--policy", "expected_completion:throughput=much"], "is no number"),
        ([SMALL, "--policy", "lmetric:x=1"], "it takes none"),
        ([SMALL, "--fleet", "h100:3"], "did you mean 'h100-8b'?"),
        ([SMALL, "--fault", "slo@3:x"], "did you mean 'slow'?"),
        ([SMALL, "--fault", "slow@3:h100-8b-9"], "no backend 'h100-8b-9'"),
        ([SMALL, "--seed", "5..1"], "a range such as 1..5"),
        ([SMALL, "--scrape", "fast"], "a time such as 100ms"),
        (
            [SMALL, "--seed", "1..999", "--speedup", "1", "--speedup", "2", "--speedup", "3", "--speedup", "4"],
            "at most",
        ),
        ([SMALL, "--report", "/nowhere/at/all.html"], "No such file"),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert "Traceback" not in done.output


def test_a_broken_line_is_named_with_its_file_and_number_and_can_be_skipped(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    line = '{"timestamp": %d, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}'
    file.write_text("\n".join([*(line % (i * 500) for i in range(20)), '{"timestamp": -3}', line % 11_000]) + "\n")
    done = run(str(file), "--policy", "random")
    assert done.exit_code == 2
    assert f"{file}:21: " in done.output
    skipped = run(str(file), "--policy", "random", "--skip-bad", "--json")
    assert skipped.exit_code == 0, skipped.output
    assert json.loads(skipped.stdout)["runs"][0]["offered"] == 21
    assert "1" in run(str(file), "--policy", "random", "--skip-bad").stderr


def test_a_fleet_file_says_everything_that_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "profiles:\n  mine: {like: h100-8b, prefil: 3us, base: 7}\n"
        "backends:\n  - {profile: mime, count: 2}\n  - {profile: l4-8b, count: 0}\nfaults: [slow@9-3:mine-1]\n"
    )
    done = run(SMALL, "--fleet", str(file))
    assert done.exit_code == 2
    for part in (
        "profiles.mine.prefil: unknown; did you mean 'prefill'?",
        "profiles.mine.base: expected a time with its unit",
        "backends[1].count: expected a whole number",
        "faults[0]",
        "did you mean 'mine'?",
    ):
        assert part in done.output, part


def test_a_fleet_file_gives_own_machines(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "profiles:\n  mine: {like: h100-8b, base: 9ms, kv_tokens: 200000}\n"
        "backends:\n  - {profile: mine, count: 2}\n  - {profile: l4-8b, weight: 0.5, slowdown: 1.5}\n"
        "faults: [slow@5-10:mine-1:3]\n"
    )
    done = run(SMALL, "--fleet", str(file), "--policy", "least_connections", "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["runs"]
    assert [b["name"] for b in row["backends"]] == ["mine-1", "mine-2", "l4-8b-1"]


@pytest.mark.parametrize("command", re.findall(r"^fairlead (simulate .+)$", DOCS.read_text("utf-8"), re.MULTILINE))
def test_examples_of_the_docs_work(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".jsonl" in command or "fleet.yaml" in command:
        pytest.skip("needs a file that the reader has")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(simulate, [*command.split()[1:], "--jobs", "1"])
    assert done.exit_code == 0, done.output
