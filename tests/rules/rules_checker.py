"""The checker behind the rules: what does a source file import and call, and may it?

Reads source with `ast` and never imports it, so a broken or half-written file cannot hide.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = "fairlead"
MAX_LINES = 400

IMPURE = frozenset({"asyncio", "socket", "time", "random", "logging", "os", "threading"})
"""Modules that stand for a clock, chance, I/O or another thread of control."""

PURE_EMULATOR = tuple(f"emulator.{name}" for name in ("engine", "kvcache", "profiles", "quiet", "work"))

PURE_DOCTOR = tuple(
    f"doctor.{name}"
    for name in ("checks", "checks_fleet", "facts", "findings", "mend", "places", "read", "report", "write")
)

# Part -> what of ours it may import. The longest part that fits a module counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "core": ("core",),
    "wire": ("wire", "core.model"),
    "engines": ("engines", "core.model"),
    **dict.fromkeys(PURE_EMULATOR, (*PURE_EMULATOR, "core.model")),
    "emulator": ("emulator", "core.model"),
    "feeds": ("feeds", "core", "engines"),
    # hosts: each knows the brain and the wire, none knows another
    "proxy": ("proxy", "core", "wire"),
    "picker": ("picker", "core", "wire"),
    "sim": ("sim", "core", "charts", *PURE_EMULATOR),
    # shows what the running parts hold, and starts none of them
    "control": ("control", "core", "wire", "proxy", "feeds", "charts", "dashboard", "config.schema"),
    # a configuration goes out of these, so they know how one is written
    "control.exports": ("control.exports", "control.gate", "core", "wire", "config.schema", "config.walk"),
    "dashboard": ("dashboard", "charts"),
    "config": ("config", "core.model", "core.policies.registry", "core.retry", "engines.registry"),
    "nginx": ("nginx", "config"),
    **dict.fromkeys(PURE_DOCTOR, (*PURE_DOCTOR, "core.model", "engines")),
    "doctor": ("doctor", "core.model", "engines"),
    "top": ("top",),  # knows a running Fairlead by its admin API only
    **dict.fromkeys(
        ("config.parts", "config.changes", "config.reload"), ("config", "core", "feeds", "proxy", "control")
    ),
    "config.build": ("config", "core", "engines", "feeds", "proxy", "picker", "sim", "control"),
}
WIRES = ("config.build", "cli", "demo", "workers", "__main__")  # whatever these import, they are the outermost layer
PURE = ("core", "wire", "engines", *PURE_EMULATOR, *PURE_DOCTOR)
NO_CALLS = frozenset({"open", "print", "input", "eval", "exec", "breakpoint"})


def module_of(path: Path) -> str:
    """src/fairlead/core/view.py -> core.view"""
    parts = list(path.relative_to(SOURCE / PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> Iterator[tuple[str, str]]:
    """(module, text) of every file of ours."""
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        yield module_of(path), path.read_text("utf-8")


def within(module: str, parts: Iterable[str]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def allowed(module: str) -> tuple[str, ...] | None:
    """What of ours the module may import; None: anything."""
    if within(module, WIRES) and module != "config.build":
        return None
    fits = [part for part in MAY_IMPORT if within(module, (part,))]
    return MAY_IMPORT[max(fits, key=len)] if fits else ()


def imports(module: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of everything imported anywhere in the file, under TYPE_CHECKING and in functions too.

    `from a.b import c` may mean the module a.b.c or a name in a.b: it is told as a.b.c.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # Seen from a file; a package's own __init__ would stand one higher, and holds no imports here.
                above = f"{PACKAGE}.{module}".split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "__import__":
            yield "__import__", node.lineno


def layer_problems(module: str, text: str) -> list[str]:
    """Imports that the layers forbid, each as a sentence."""
    may = allowed(module)
    problems = []
    for name, line in imports(module, ast.parse(text)):
        top, _, rest = name.partition(".")
        if top == PACKAGE and may is not None and not within(rest, may) and rest not in ("", "__version__"):
            problems.append(f"{module}:{line}: imports {rest}, but {module.split('.')[0]} may import only {may}")
        if name == "__import__" and within(module, PURE):
            problems.append(f"{module}:{line}: hides an import behind __import__")
    return problems


def purity_problems(module: str, text: str) -> list[str]:
    """I/O, clocks, chance and global state in modules that have to be pure."""
    if not within(module, PURE):
        return []
    tree, problems = ast.parse(text), []
    for name, line in imports(module, tree):
        if name.split(".")[0] in IMPURE:
            problems.append(f"{module}:{line}: imports {name.split('.')[0]}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NO_CALLS:
            problems.append(f"{module}:{node.lineno}: calls {node.func.id}()")
        elif isinstance(node, ast.Global):
            problems.append(f"{module}:{node.lineno}: changes a global")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
            problems.append(f"{module}:{node.lineno}: is asynchronous")
    return problems


def cancel_problems(module: str, text: str) -> list[str]:
    """Calls of asyncio.wait_for: Python 3.11's can forget that it was cancelled, and the task lives on."""
    return [
        f"{module}:{node.lineno}: calls wait_for; use `async with asyncio.timeout(...)`, which never swallows a cancel"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) == "wait_for"
    ]


def length_problems(module: str, text: str) -> list[str]:
    """Files that are too long and do not say why in their first docstring ("Long because ...")."""
    lines = text.count("\n")
    if lines <= MAX_LINES or re.search(r"\blong because\b", ast.get_docstring(ast.parse(text)) or "", re.IGNORECASE):
        return []
    return [f"{module}: {lines} lines, and its docstring does not say 'long because ...'"]


def docstring_problems(module: str, text: str) -> list[str]:
    """Files that do not open with their question."""
    return [] if not text.strip() or ast.get_docstring(ast.parse(text)) else [f"{module}: has no docstring at its top"]


# --- machine paths -------------------------------------------------------------------------------------------

_HOMES = re.compile(r"(?<![\w.])/(?:home|Users)/(?!USER\b|user\b|<)[A-Za-z][\w.-]*/")


def kept_files() -> list[Path]:
    """Files that git keeps, or would keep: tracked ones and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:  # a copy without its repository
        found = [p for p in ROOT.rglob("*") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    else:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def machine_paths(root: Path, home: Path) -> list[str]:
    """Beginnings of paths that exist on this machine only."""
    own = {str(root), str(root.parent), str(home)}
    return sorted(path for path in own if path.count("/") >= 2 or path in (str(root), str(root.parent)))


def path_problems(name: str, text: str, own: Iterable[str]) -> list[str]:
    """Lines that name a path of this machine or of somebody's home."""
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        for path in own:
            if len(path) > 1 and re.search(rf"(?<![\w.])(?<!\w/){re.escape(path)}(?![\w.-])", line):
                problems.append(f"{name}:{number}: names a path of this machine")
        if _HOMES.search(line):
            problems.append(f"{name}:{number}: names somebody's home")
    return problems
