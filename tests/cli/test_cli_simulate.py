"""`fairlead simulate`: what it prints, that it repeats itself byte for byte, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sim_samples import header, recorded, write

from fairlead.cli.simulate import simulate
from fairlead.core.policies.registry import POLICIES, make
from fairlead.sim.fleet import parse_fleet
from fairlead.sim.host import Simulation
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.trace import Request, Trace

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
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert f"fairlead simulate {SMALL} --policy random --report {page} --jobs 1</code>" in text, "how to repeat it"
    assert "No --fleet given: h100-8b:2," in done.stderr
    assert "No --fleet given: h100-8b:2," in text


def test_a_report_that_cannot_be_written_ends_with_1(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.symlink_to(tmp_path / "nowhere" / "report.html")
    done = run(SMALL, "--policy", "random", "--report", str(page))
    assert done.exit_code == 1
    assert "No such file" in done.stderr


def test_options_of_a_policy_count() -> None:
    done = run(SMALL, "--policy", "expected_completion:throughput=0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"][0]["policy"] == "expected_completion:throughput=0"


def test_several_rates_are_several_traces() -> None:
    done = run(SMALL, "--policy", "random", "--speedup", "1", "--speedup", "4", "--json")
    assert len({row["trace"] for row in json.loads(done.stdout)["runs"]}) == 2


def test_several_rates_of_a_file_are_several_traces_too(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    line = '{"timestamp": %d, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}\n'
    file.write_text("".join(line % (i * 517) for i in range(20)))
    done = run(str(file), "--policy", "random", "--speedup", "1", "--speedup", "4", "--json")
    assert done.exit_code == 0, done.output
    assert [row["trace"] for row in json.loads(done.stdout)["runs"]] == ["trace", "trace x4"]


def test_what_is_asked_twice_runs_once() -> None:
    twice = ("--policy", "random", "--policy", "random", "--fleet", "l4-8b:1", "--fleet", "l4-8b:1", "--speedup", "2")
    done = run(SMALL, *twice, "--speedup", "2", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["runs"]) == 1


def test_a_limit_counts_for_made_requests_too() -> None:
    done = run(SMALL, "--policy", "random", "--limit", "5", "--json")
    assert json.loads(done.stdout)["runs"][0]["offered"] == 5


def test_json_is_one_document_and_nothing_else_is_said_but_the_speed() -> None:
    done = run(SMALL, "--policy", "random", "--json")
    assert done.stdout.endswith("}\n")
    assert not done.stdout.endswith("\n\n")
    assert done.stderr.count("\n") == 1
    assert "requests/s" in done.stderr


def test_names_are_no_markup(tmp_path: Path) -> None:
    file = tmp_path / "a[bold]b.jsonl"
    line = '{"timestamp": %d, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}\n'
    file.write_text("".join(line % (i * 517) for i in range(20)))
    two = ("--policy", "random", "--policy", "round_robin", "--seed", "1..2", "--speedup", "1", "--speedup", "2")
    done = run(str(file), *two)
    assert done.exit_code == 0, done.output
    assert "round_robin against random (a[bold]b x2, h100-8b:2): " in " ".join(done.stdout.split())


def test_requests_with_models_names_are_answered(tmp_path: Path) -> None:
    row = {
        "id": "r", "client": "192.0.2.1", "method": "POST", "path": "/v1/chat/completions", "status": 200,
        "stream": True, "backend": "a", "tries": 1, "failed_on": [], "prompt_tokens": 100, "output_tokens": 10,
        "bytes_out": 900, "ttft": 0.25, "duration": 2.5, "outcome": "ok", "error": None,
    }  # fmt: skip
    file = tmp_path / "access.log"
    file.write_text("".join(json.dumps(row | {"time": i / 2, "model": f"m{i % 2}"}) + "\n" for i in range(20)))
    done = run(str(file), "--policy", "expected_completion", "--json")
    assert json.loads(done.stdout)["runs"][0]["figures"]["completed"] == 20


def test_trace_info_says_what_is_in_a_trace_and_runs_nothing() -> None:
    done = run(SMALL, "--trace-info")
    assert done.exit_code == 0, done.output
    assert "requests: 38" in done.stdout
    assert "notes: Made, not recorded" in done.stdout
    told = json.loads(run(SMALL, "--trace-info", "--json").stdout)
    assert told["timed requests"] + told["requests that wait for another"] == told["requests"] == 38
    assert 0 < told["share of prompt tokens seen before"] < 1
    alone = json.loads(run(SMALL, "--trace-info", "--json", "--limit", "1").stdout)
    assert alone["share of prompt tokens seen before"] == 0
    assert alone["timed requests per second"] is None


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_it_with_130_and_no_traceback(jobs: str) -> None:
    command = [sys.executable, "-m", "fairlead", "simulate", "chat:rate=40,seconds=300", "--seed", "1..200", "--jobs"]
    running = subprocess.Popen(
        [*command, jobs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs these tests in the background may ignore the signal, and it would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    try:
        while not (line := running.stderr.readline()).startswith("No --fleet given"):
            assert line, "it ended before it was interrupted"
        os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to all processes of the command
        out, rest = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, rest
    assert rest == "interrupted\n"
    assert out == ""


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
        ([SMALL, "--what-if", "--fleet", "h100-8b:2", "--speedup", "2"], "leave out --fleet, --speedup"),
        ([SMALL, "--what-if"], "holds no measurements"),
        ([SMALL, "--report", "/nowhere/at/all.html"], "directory does not exist"),
        ([SMALL, "--report", "/"], "is a directory"),
        ([SMALL, "--speedup", "nan"], "a number from 0.001 to 10000"),
        ([SMALL, "--speedup", "0"], "a number from 0.001 to 10000"),
        ([SMALL, "--policy", "lmetric", "--policy", "prefix_cache:overload=2,overload=3"], "overload is given twice"),
        ([SMALL, "--fault", "join@3:h100-8b-1", "--fault", "join@5:h100-8b-1"], "a machine joins once"),
        ([SMALL, "--fault", "leave@3-9:h100-8b-1"], "has no end"),
        ([SMALL, "--fault", "slow@1-9:h100-8b-1", "--fault", "slow@3-5:h100-8b-1"], "must not overlap"),
        ([SMALL, "--fleet", "fleet.yaml"], "fleet.yaml: No such file or directory"),
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


FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    line
    for kind, block in FENCED.findall(DOCS.read_text("utf-8"))
    if kind == "sh"
    for line in block.splitlines()
    if line.startswith("fairlead simulate ")
]
LINE = '{"timestamp": %d, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}'


def write_recording(path: Path) -> None:
    """What two machines did with 160 requests, as `serve --record` would have told it."""
    fleet = parse_fleet("h100-8b:2")
    asked = [Request(i * 0.25, 700, 20, (i % 8,) * 40, max_tokens=64) for i in range(160)]
    ran = Simulation(Trace("t", asked), fleet, make("round_robin")).run()
    lines = [
        recorded(
            o.arrived, 700, 2_800, [f"{o.request % 8:016x}"], [2_800],
            backend=o.backend, ttft=o.ttft, duration=o.e2e, cached_tokens=o.cached, output_tokens=20,
        )
        for o in ran.outcomes
    ]  # fmt: skip
    write(path, [header(), *lines])


def test_a_recording_answers_what_if(tmp_path: Path) -> None:
    write_recording(tmp_path / "recording.jsonl")
    done = run(str(tmp_path / "recording.jsonl"), "--what-if", "--policy", "least_connections", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "fairlead.what-if/1"
    shown = run(str(tmp_path / "recording.jsonl"), "--what-if", "--policy", "least_connections")
    assert "Calibrated on 96 requests" in shown.stdout
    assert "Trust: " in shown.stdout
    assert "least_connections" in shown.stdout


def test_the_docs_have_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_of_the_docs_work(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "--what-if" in line:
        write_recording(Path("recording.jsonl"))
    Path("trace.jsonl").write_text("\n".join(LINE % (i * 517) for i in range(60)) + "\n")
    (fleet,) = [block for kind, block in FENCED.findall(DOCS.read_text("utf-8")) if kind == "yaml"]
    Path("fleet.yaml").write_text(fleet)
    done = run(*shlex.split(line, comments=True)[2:])
    assert done.exit_code == 0, done.output
    assert ("--report" in line) == Path("report.html").exists()
