"""The command `fairlead import nginx`: what goes where, and its exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from nginx_checking import SAMPLES, make_certificates

from fairlead.cli.main import main
from fairlead.config.load import read_file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["import", *arguments])


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    make_certificates(tmp_path)
    return Path(shutil.copy(SAMPLES / "two-models-tls.conf", tmp_path / "nginx.conf"))


def test_the_configuration_goes_to_standard_output_and_the_rest_to_standard_error(sample: Path) -> None:
    done = run("nginx", str(sample))
    assert done.exit_code == 0
    file = sample.parent / "fairlead.yaml"
    file.write_text(done.stdout, "utf-8")
    config, problems = read_file(file)
    assert config is not None and problems == []
    assert [backend.url for backend in config.backends][:1] == ["http://gpu1.internal:8000"]
    assert done.stderr.startswith("Left out:\n")
    listed = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    assert f"  {sample}:2: user www-data; the system's service manager chooses the user" in listed
    for line in listed:  # the same stands in the file
        assert f"# {line}" in done.stdout.splitlines()


def test_json_holds_the_configuration_the_notes_and_the_problems(sample: Path) -> None:
    shutil.rmtree(sample.parent / "certs")
    done = run("nginx", str(sample), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["config"]["policy"] == {"name": "session", "header": "x-session-id"}
    assert "policy: {name: session, header: x-session-id}" in told["yaml"]
    first = told["notes"][0]
    assert (first["kind"], first["important"], first["line"]) == ("left out", True, 48)
    assert {problem["severity"] for problem in told["problems"]} == {"warning"}
    assert any("is not there" in problem["message"] for problem in told["problems"])


def test_missing_certificates_are_warnings_on_standard_error(sample: Path) -> None:
    shutil.rmtree(sample.parent / "certs")
    done = run("nginx", str(sample))
    assert done.exit_code == 0
    assert "warning: listen[0].tls.cert: '" in done.stderr.replace("listen.tls", "listen[0].tls")
    assert "listen:\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nginx", "no-such.conf"), "no-such.conf: is not there\nnothing was imported"),
        (("nginx", "."), "is a directory, not a file"),
        (("nginx", "\0"), "is not there"),
        (("nginx",), "Missing argument 'FILE'"),
        (("apache", "x"), "No such command 'apache'"),
    ],
)
def test_what_cannot_be_imported_is_status_2_and_writes_nothing(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_keep_policy_and_server_are_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(
        "server { server_name a.com; location / { proxy_pass http://a:1; } }"
        "upstream u { least_conn; server b:1; server c:1; }"
        "server { server_name b.com; location / { proxy_pass http://u; } }"
    )
    done = run("nginx", str(file), "--keep-policy", "--server", "b.com")
    assert done.exit_code == 0
    assert "policy: least_connections\n" in done.stdout and "backends: [http://b:1, http://c:1]\n" in done.stdout
    assert "no server block has the name" in run("nginx", str(file), "--server", "c.com").stderr
