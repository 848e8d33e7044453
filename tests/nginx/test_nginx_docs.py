"""docs/from-nginx.md: its example is what the command prints, and its tables speak of what is known.

To write the example anew: python -m pytest tests/nginx/test_nginx_docs.py shows what it should be.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from nginx_checking import SAMPLES

from fairlead.cli.main import main
from fairlead.config.schema import Config, Tls, options_of
from fairlead.nginx import reasons, upstreams
from fairlead.nginx.convert import READ

DOCS = (Path(__file__).parents[2] / "docs" / "from-nginx.md").read_text("utf-8")
ROWS = [line.split("|")[1:3] for line in DOCS.splitlines() if line.startswith("| ") and "---" not in line]


def test_the_example_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SAMPLES / "vllm-simple.conf", tmp_path / "nginx.conf")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["import", "nginx", "nginx.conf"])
    shown = re.search(r"<!-- example: begin -->\n```yaml\n(.*?)```\n<!-- example: end -->", DOCS, re.DOTALL)
    assert shown is not None and shown[1] == done.stdout


def test_every_directive_in_the_tables_is_known_to_the_import() -> None:
    known = READ | set(reasons.IMPORTANT) | set(reasons.LEFT_OUT) | set(reasons.BUILT_IN) | set(upstreams.BALANCERS)
    known |= {"keepalive", "keepalive_requests", "keepalive_timeout", "non_idempotent", "service", "route", "drain"}
    known |= {"weight", "max_conns", "max_fails", "fail_timeout", "backup", "down", "slow_start", "resolve"}
    known |= {"upstream", "server", "location"}
    words = {
        re.split(r"[ =]", word)[0]
        for left, _ in ROWS
        for word in re.findall(r"`([^`]+)`", left)
        if not word.startswith(("-", "option"))
    }
    beginnings = tuple(beginning for beginning, _ in reasons.BEGINNINGS)
    assert len(words) > 90
    assert {word for word in words if word not in known and not word.startswith(beginnings)} == set()


def test_every_option_in_the_tables_is_in_the_schema() -> None:
    tables = {name: option.table for name, (option, _) in options_of(Config).items() if option.table is not None}
    paths = {path for _, right in ROWS for path in re.findall(r"`([a-z_]+(?:\[\])?\.[a-z0-9_]+)", right)}
    assert len(paths) > 20
    tables["tls"] = Tls
    for path in paths:
        group, _, name = path.replace("[]", "").partition(".")
        assert name in options_of(tables[group]), path
