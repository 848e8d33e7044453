"""Layers and purity, as the design asks for them: checked on every file, and the checker itself is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import rules_checker as rules

ALL = list(rules.sources())


def test_the_checker_sees_the_whole_tree() -> None:
    modules = {module for module, _ in ALL}
    assert {
        "core.balancer",
        "wire.http1",
        "engines.vllm",
        "emulator.engine",
        "proxy.service",
        "config.build",
    } <= modules
    assert set(rules.PURE_EMULATOR) <= modules


def test_every_layer_imports_only_what_lies_below_it() -> None:
    assert [problem for module, text in ALL for problem in rules.layer_problems(module, text)] == []


def test_pure_parts_have_no_clock_no_chance_and_no_io() -> None:
    assert [problem for module, text in ALL for problem in rules.purity_problems(module, text)] == []


def test_nothing_waits_in_a_way_that_swallows_a_cancel() -> None:
    assert [problem for module, text in ALL for problem in rules.cancel_problems(module, text)] == []
    assert rules.cancel_problems("cli.new", "async def f():\n    await asyncio.wait_for(g(), 1.0)") != []
    assert rules.cancel_problems("cli.new", "from asyncio import wait_for\nwait_for(g(), 1.0)") != []


def test_no_file_is_too_long() -> None:
    assert [problem for module, text in ALL for problem in rules.length_problems(module, text)] == []


def test_every_file_opens_with_its_question() -> None:
    assert [problem for module, text in ALL for problem in rules.docstring_problems(module, text)] == []


def test_no_kept_file_names_a_path_of_this_machine() -> None:
    own = rules.machine_paths(rules.ROOT, Path.home())
    found = []
    for path in rules.kept_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += rules.path_problems(str(path.relative_to(rules.ROOT)), text, own)
    assert found == []


# --- the checker finds what it is for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core.view", "from fairlead.wire import openai"),
        ("core.view", "import fairlead.proxy.pool"),
        ("core.view", "if TYPE_CHECKING:\n    from fairlead.config.schema import Config"),
        ("core.policies.new", "def f():\n    from fairlead.feeds.watch import Watch"),
        ("core.policies.new", "from ...engines import registry"),
        ("core.view", "__import__('time')"),
        ("wire.openai", "from fairlead.core.balancer import Balancer"),
        ("wire.openai", "from fairlead.core import balancer"),
        ("engines.vllm", "from fairlead.wire.http1 import BadHttp"),
        ("emulator.engine", "from fairlead.emulator.server import EmulatedServer"),
        ("emulator.engine", "from fairlead.core.view import View"),
        ("emulator.server", "from fairlead.proxy.service import Service"),
        ("proxy.service", "from fairlead.picker.server import Picker"),
        ("proxy.service", "from fairlead.sim.run import run"),
        ("picker.server", "import fairlead.proxy.service"),
        ("sim.run", "from fairlead.proxy.timers import Wheel"),
        ("sim.run", "from fairlead.emulator.server import EmulatedServer"),
        ("proxy.service", "from fairlead.config.schema import Config"),
        ("feeds.watch", "from fairlead.proxy.pool import Pool"),
        ("config.load", "from fairlead.proxy.service import Service"),
        ("config.load", "from fairlead.core.balancer import Balancer"),
        ("control.views", "from fairlead.config.build import App"),
        ("control.views", "from fairlead.cli.main import main"),
        ("brand_new.part", "from fairlead.core.model import Facts"),
    ],
)
def test_a_forbidden_import_is_found(module: str, line: str) -> None:
    assert len(rules.layer_problems(module, f'"""What?"""\n{line}\n')) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core.policies.new", "from fairlead.core.view import View"),
        ("core.policies.new", "from ..view import View"),
        ("core.view", "from xxhash import xxh3_64_intdigest"),
        ("wire.openai", "from fairlead.core.model import Facts"),
        ("emulator.engine", "from fairlead.emulator.work import Work"),
        ("sim.run", "from fairlead.emulator.engine import Engine"),
        ("config.build", "from fairlead.proxy.service import Service"),
        ("cli.serve", "from fairlead.config.build import App"),
        ("control.admin", "from fairlead import __version__"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, line: str) -> None:
    assert rules.layer_problems(module, f"{line}\n") == []


@pytest.mark.parametrize("module", ["core.view", "core.policies.new", "wire.http1", "engines.vllm", "emulator.engine"])
@pytest.mark.parametrize(
    "line",
    [
        *(f"import {name}" for name in sorted(rules.IMPURE)),
        "from time import monotonic",
        "import os.path",
        "from asyncio import sleep",
        "def f():\n    import random",
        "print('here')",
        "open('x')",
        "def f():\n    global x\n    x = 1",
        "async def f():\n    pass",
    ],
)
def test_impurity_is_found(module: str, line: str) -> None:
    assert len(rules.purity_problems(module, line)) == 1


def test_impurity_is_the_hosts_right() -> None:
    assert rules.purity_problems("proxy.service", "import asyncio, time\nprint(open('x'))") == []
    assert rules.purity_problems("emulator.server", "import asyncio") == []
    assert rules.purity_problems("core.view", "def f(timer):\n    timer.open()\n    return timer.time") == []


def test_a_long_file_is_found_unless_it_says_why() -> None:
    body = "x = 1\n" * 401
    assert rules.length_problems("core.view", f'"""What?"""\n{body}')
    assert rules.length_problems("core.view", f'"""What?\n\nLong because the table is one thing.\n"""\n{body}') == []
    assert rules.length_problems("core.view", "x = 1\n" * 400) == []


def test_a_file_without_a_question_is_found() -> None:
    assert rules.docstring_problems("core.view", "x = 1\n")
    assert rules.docstring_problems("core", "") == []


def test_a_machine_path_is_found() -> None:
    root, home = Path("/", "builds", "thing"), Path("/", "var", "home", "me")
    own = rules.machine_paths(root, home)
    for bad in (
        f"see {root}/src",
        f"cd {home}",
        f'"{root.parent}/other"',
        "/" + "home/jane/x.py",
        "/" + "Users/jane/x.py",
    ):
        assert rules.path_problems("f", bad, own), bad
    for good in (
        "docs/builds/thing",
        "https://host/builds/thing",
        f"{root}-other",
        "/v1/models",
        "/usr/bin/env",
        "a/b",
    ):
        if good != f"{root}-other":  # its parent is ours as well
            assert rules.path_problems("f", good, own) == [], good
