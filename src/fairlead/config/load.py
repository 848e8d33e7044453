"""A file or a list of targets -> a checked `Config`, or every problem with it at once.

`read_*` return (config or None, problems); a config comes back exactly when no problem is an error, and
warnings may come with it. `load_file` and `from_targets` raise `ConfigError` instead of returning None.
Rule 1: everything that is wrong is said in one go, each with its file, line, path and what to write.
Rule 2: this is the only part of the schema's world that opens files: the config itself, certificates
        and keys, and it looks whether the folders of access log and recording are there.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fairlead.config.checks import check_config
from fairlead.config.document import read_document
from fairlead.config.problems import ERROR, WARNING, ConfigError, Problem, Problems
from fairlead.config.schema import SHORTHAND, Config, Listen, Tls, options_of
from fairlead.config.walk import BAD, Walker, to_plain

__all__ = [
    "ERROR", "WARNING", "ConfigError", "Problem", "check_files", "from_targets", "load_file", "parse",
    "parse_table", "read_file", "read_targets", "to_plain",
]  # fmt: skip

LARGEST_FILE: Final = 1024 * 1024
COMMAND_LINE: Final = "command line"


def load_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in a file; raises `ConfigError` with every problem when it cannot be used."""
    return _or_raise(*read_file(path, overrides))


def from_targets(urls: Iterable[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration for `fairlead serve URL...`; raises `ConfigError`."""
    return _or_raise(*read_targets(urls, overrides))


def read_file(path: str | Path, overrides: Mapping[str, Any] | None = None) -> tuple[Config | None, list[Problem]]:
    """`overrides` are options of the command line by their path ("access_log.format"); None: not given."""
    source = str(path)
    problems = Problems(source)
    text = _read_text(Path(path), problems)
    if text is None:
        return None, problems.in_order()
    obj, problems.lines = read_document(text, problems)
    if obj is BAD:
        return None, problems.in_order()
    if obj is None:
        problems.add("", "is empty", hint="it needs at least backends: [http://HOST:PORT]")
        return None, problems.in_order()
    if not isinstance(obj, Mapping):
        problems.add("", "expected options such as 'backends:' at the top, got something else", line=1)
        return None, problems.in_order()
    given = _given(overrides)
    config = _walk(_overridden(obj, given), problems)
    if config is not None:
        config = _with_whole_paths(config, Path(path).parent)
        check_files(config, problems)
    return _result(config, problems, given)


def read_targets(
    urls: Iterable[str], overrides: Mapping[str, Any] | None = None
) -> tuple[Config | None, list[Problem]]:
    """Like `read_file`, with the backends from the command line."""
    problems = Problems(COMMAND_LINE)
    config = _walk(_overridden({"backends": list(urls)}, _given(overrides)), problems)
    if config is not None:
        check_files(config, problems)
    return _result(config, problems, {})


def parse(obj: object, source: str, lines: Mapping[str, int] | None = None) -> tuple[Config | None, list[Problem]]:
    """Plain data (what YAML or JSON gives) -> configuration. Opens no files and never raises."""
    problems = Problems(source, lines)
    return _result(_walk(obj, problems), problems, {})


def parse_table(table: type[Any], obj: object, source: str, path: str = "") -> tuple[Any, list[Problem]]:
    """One table by itself, such as a `Backend` that came in through the admin API."""
    problems = Problems(source)
    made = Walker(problems).table(table, obj, path)
    return (None if made is BAD or problems.has_errors else made), problems.in_order()


def check_files(config: Config, problems: Problems) -> None:
    """Whether the files that the configuration names are there and can be used."""
    for index, listen in enumerate(config.listen):
        if listen is not None and listen.tls is not None:  # None is a hole left by the walker
            single = f"listen[{index}]" not in problems.lines and len(config.listen) == 1
            _check_tls(listen.tls, "listen.tls" if single else f"listen[{index}].tls", problems)
    if config.access_log.enabled and config.access_log.path != "-":
        _check_output(config.access_log.path, "access_log.path", problems)
    if config.recording is not None:
        if Path(config.recording.path).name == "-":
            problems.add("recording.path", "a recording goes to a file, not to standard output", hint="name a file")
        _check_output(config.recording.path, "recording.path", problems)


def _check_output(file: str, path: str, problems: Problems) -> None:
    target = Path(file)
    if target.is_dir():
        problems.add(path, f"'{target}' is a directory", hint="name a file in it")
    elif not target.parent.is_dir():
        problems.add(path, f"the directory '{target.parent}' is not there", hint="create it")


def _check_tls(tls: Tls, path: str, problems: Problems) -> None:
    readable = True
    for name, file in (("cert", tls.cert), ("key", tls.key)):
        reason = _why_unreadable(Path(file))
        if reason:
            problems.add(f"{path}.{name}", f"'{file}' {reason}", value=file)
            readable = False
    if not readable:
        return
    is_locked = False

    def passphrase() -> str:
        """Answers in place of the terminal, which OpenSSL would ask otherwise."""
        nonlocal is_locked
        is_locked = True
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.cert, tls.key, password=passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if is_locked:
            problems.add(f"{path}.key", "is protected by a passphrase", value=tls.key, hint="store it without one")
        elif getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problems.add(path, "the key does not belong to the certificate")
        else:
            problems.add(path, "certificate and key could not be read as PEM files")


def _read_text(path: Path, problems: Problems) -> str | None:
    reason = _why_unreadable(path)
    if reason:
        problems.add("", reason)
        return None
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        problems.add("", f"could not be read: {(error.strerror or 'unknown reason').lower()}")
        return None
    if len(data) > LARGEST_FILE:
        problems.add("", "is larger than 1 MiB, which no configuration is", hint="is it the right file?")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add("", "is not UTF-8 text", hint="save it as UTF-8", line=line)
        return None


def _why_unreadable(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "is a directory, not a file"
        if not path.exists():
            return "is not there"
        return None if os.access(path, os.R_OK) else "may not be read by this user"
    except (OSError, ValueError) as error:  # a name too long, or with a NUL byte
        return f"could not be opened: {str(error).lower()}"


def _walk(obj: object, problems: Problems) -> Config | None:
    """May have holes (None in its lists) when problems were found; `_result` lets none out."""
    walker = Walker(problems)
    made = walker.table(Config, obj, "")
    if made is BAD:
        return None
    check_config(made, walker.where, problems)
    return made  # type: ignore[no-any-return]


def _given(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    return {path: value for path, value in (overrides or {}).items() if value is not None}


def _overridden(obj: Mapping[Any, Any], given: Mapping[str, Any]) -> dict[Any, Any]:
    """The data with the command line's options written over it; the original is left alone."""
    merged = dict(obj)
    tables = {name: option.table for name, (option, _) in options_of(Config).items() if option.table}
    bare = {name: SHORTHAND[table.__name__] for name, table in tables.items() if table.__name__ in SHORTHAND}
    for path, value in given.items():
        *parents, last = path.split(".")
        place = merged
        for name in parents:
            inner = place.get(name)
            if isinstance(inner, Mapping):
                inner = dict(inner)
            elif inner is not None and name in bare:  # `access_log: off` is {enabled: off}
                inner = {bare[name]: inner}
            else:
                inner = {}
            place[name] = place = inner
        place[last] = value
    return merged


def _with_whole_paths(config: Config, folder: Path) -> Config:
    """File names in the file are meant from where the file lies, not from where fairlead was started."""

    def whole(name: str) -> str:
        return name if name == "-" else str(folder / name)

    listen = tuple(
        item if item is None or item.tls is None
        else Listen(address=item.address, tls=Tls(cert=whole(item.tls.cert), key=whole(item.tls.key)))
        for item in config.listen
    )  # fmt: skip
    log = dataclasses.replace(config.access_log, path=whole(config.access_log.path))
    recording = config.recording
    if recording is not None:
        recording = dataclasses.replace(recording, path=str(folder / recording.path))
    return dataclasses.replace(config, listen=listen, access_log=log, recording=recording)


def _result(config: Config | None, problems: Problems, given: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    found = [
        dataclasses.replace(problem, source=COMMAND_LINE, line=None)
        if any(problem.path == path or problem.path.startswith((f"{path}.", f"{path}[")) for path in given)
        else problem
        for problem in problems.in_order()
    ]
    return (None if problems.has_errors else config), found


def _or_raise(config: Config | None, problems: list[Problem]) -> Config:
    if config is None:
        raise ConfigError(problems)
    return config
