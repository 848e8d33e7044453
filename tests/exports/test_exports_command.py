"""`fairlead export KIND --output DIR`: what is written where, and what is never overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fairlead.cli.main import main
from fairlead.control.exports.registry import KINDS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_what_standard_output_would(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "new" / "folder"
    done = run(kind, "--output", str(folder))
    assert (done.exit_code, done.stderr) == (0, "")
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    texts = {name: (folder / name).read_text("utf-8") for name in names}
    if len(names) == 1:
        assert run(kind).stdout == texts[names[0]]
    else:
        assert run(kind).stdout == "\n".join(f"# ----- {name} -----\n{texts[name]}" for name in names)


def test_file_names_are_those_that_the_other_tools_look_for() -> None:
    names = [name for kind in KINDS.values() for name in kind.files(None)]
    assert len(set(names)) == len(names)
    assert {"fairlead.service", "fairlead.socket", "compose.yaml", "prometheus.yml", "nginx.conf"} < set(names)


def test_a_file_that_is_there_is_kept_until_force_is_said(tmp_path: Path) -> None:
    (tmp_path / "fairlead.service").write_text("mine\n", encoding="utf-8")
    done = run("systemd", "--output", str(tmp_path))
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path}: fairlead.service is there already; --force overwrites" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["fairlead.service"]
    assert (tmp_path / "fairlead.service").read_text("utf-8") == "mine\n"
    assert run("systemd", "--output", str(tmp_path), "--force").exit_code == 0
    assert (tmp_path / "fairlead.service").read_text("utf-8") == KINDS["systemd"].files(None)["fairlead.service"]


def test_force_without_a_folder_is_a_mistake() -> None:
    done = run("systemd", "--force")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "name their folder with --output" in done.stderr


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("compose", "--output", str(tmp_path / "file"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(tmp_path / "file") in done.stderr


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("kubernets", "kubernetes"), ("Grafana", "grafana"), ("docker-compose", "compose"), ("evnoy", "envoy")],
)
def test_a_wrong_kind_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    done = run(wrong)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"did you mean '{right}'?" in done.stderr
