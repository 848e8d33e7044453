"""`fairlead check`: what it prints and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from fairlead.cli.check import check
from fairlead.config.json_schema import json_schema


def run(tmp_path: Path, text: str, *options: str) -> Result:
    file = tmp_path / "f.yaml"
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(check, [str(file), *options])


def test_a_good_file_gets_a_summary_and_status_0(tmp_path: Path) -> None:
    result = run(tmp_path, "listen: ['127.0.0.1:1', '[::1]:1']\nbackends: [a:1, b:1]\n")
    assert result.exit_code == 0
    assert result.output.replace(str(tmp_path), "") == (
        "/f.yaml can be used: no problems\n"
        "  listen    http://127.0.0.1:1, http://[::1]:1\n"
        "  admin     http://127.0.0.1:9900\n"
        "  policy    expected_completion\n"
        "  backends  http://a:1, http://b:1\n"
    )


def test_a_unix_socket_is_shown_as_it_is_written(tmp_path: Path) -> None:
    socket = f"unix:{tmp_path}/in.sock"
    output = run(tmp_path, f"listen: ['{socket}', 'a:1']\nbackends: unix:/run/engine.sock\n").output
    assert output.splitlines()[1:] == [
        f"  listen    {socket}, http://a:1",
        "  admin     http://127.0.0.1:9900",
        "  policy    expected_completion",
        "  backends  unix:/run/engine.sock",
    ]


def test_a_long_list_of_backends_is_counted(tmp_path: Path) -> None:
    names = ", ".join(f"a:{port}" for port in range(1, 21))
    assert run(tmp_path, f"backends: [{names}]\n").output.rstrip().endswith("http://a:8 and 12 more")


def test_a_bad_file_gets_every_problem_a_count_and_status_2(tmp_path: Path) -> None:
    result = run(tmp_path, "backends:\n  - {url: 'ftp://a', wieght: 1}\nadmin: 0.0.0.0:9900\n")
    assert result.exit_code == 2
    assert result.output.replace(str(tmp_path), "") == (
        "/f.yaml:2: backends[0].wieght: unknown key 'wieght' (did you mean 'weight'?)\n"
        "/f.yaml:2: backends[0].url: expected http:// or https://, got 'ftp://a'\n"
        "/f.yaml:3: warning: admin: 0.0.0.0:9900 can be reached from other machines, and whoever reaches it "
        "can see what the fleet does (write 127.0.0.1, or set admin_token_file, or close the port to everyone else)\n"
        "/f.yaml cannot be used: 2 errors, 1 warning\n"
    )


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    result = run(tmp_path, "backends: [a:1]\nkeepalive: {timeout: 10s}\n")
    assert result.exit_code == 0
    assert "f.yaml can be used: 1 warning\n" in result.output


def test_json_says_the_same(tmp_path: Path) -> None:
    result = run(tmp_path, "backends: [a:1]\ndrain: 5\n", "--json")
    assert result.exit_code == 2
    found = json.loads(result.output)
    assert (found["usable"], found["errors"], found["warnings"], found["summary"]) == (False, 1, 0, None)
    assert found["problems"] == [
        {
            "source": str(tmp_path / "f.yaml"),
            "path": "drain",
            "message": "expected a duration with its unit, got 5",
            "value": "5",
            "hint": "write 5s or 5ms",
            "severity": "error",
            "line": 2,
        }
    ]
    good = json.loads(run(tmp_path, "backends: [a:1]\n", "--json").output)
    assert good["usable"] and good["summary"]["backends"] == ["http://a:1"]


def test_the_schema_is_printed() -> None:
    result = CliRunner().invoke(check, ["--schema"])
    assert (result.exit_code, json.loads(result.output)) == (0, json_schema())


def test_no_file_and_a_missing_file_are_said() -> None:
    runner = CliRunner()
    assert runner.invoke(check, []).exit_code == 2
    result = runner.invoke(check, ["no-such-file.yaml"])
    assert result.exit_code == 2
    assert result.output == "no-such-file.yaml: is not there\nno-such-file.yaml cannot be used: 1 error\n"
