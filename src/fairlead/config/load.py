"""A file or a list of targets -> a checked `Config`, or every problem with it at once.

`read_*` return (config or None, problems); a config comes back exactly when no problem is an error, and
warnings may come with it. `load_file` and `from_targets` raise `ConfigError` instead of returning None.
Rule 1: everything that is wrong is said in one go, each with its file, line, path and what to write.
Rule 2: this is the only part of the schema's world that opens files: the config itself, certificates
        and keys, and it looks whether the folders of access log, recording and Unix sockets are there, and whether
        what the options need is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import ssl
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fairlead.config.checks import check_config
from fairlead.config.document import read_document
from fairlead.config.problems import ERROR, WARNING, ConfigError, Problem, Problems
from fairlead.config.schema import SHORTHAND, BackendTls, Config, Tls, options_of
from fairlead.config.walk import BAD, Walker, to_plain

__all__ = [
    "ERROR", "WARNING", "ConfigError", "Problem", "check_files", "from_targets", "load_file", "parse",
    "parse_table", "read_file", "read_targets", "to_plain",
]  # fmt: skip

LARGEST_FILE: Final = 1024 * 1024
EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"  # of the extra otel
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
        if listen is None:  # a hole left by the walker, which the type of Config does not admit
            continue  # type: ignore[unreachable]
        path = problems.item("listen", index)
        if listen.address.path:
            _check_socket(listen.address.path, path, problems)
        if listen.tls is not None:
            _check_tls(listen.tls, f"{path}.tls", problems)
    _check_backend_tls(config.backend_tls, "backend_tls", problems)
    for index, backend in enumerate(config.backends):
        if backend is not None and backend.tls is not None:
            path = problems.item("backends", index)
            _check_backend_tls(backend.tls, f"{path}.tls", problems)
    if config.access_log.enabled and config.access_log.path != "-":
        _check_output(config.access_log.path, "access_log.path", problems)
    if config.recording is not None:
        if Path(config.recording.path).name == "-":
            problems.add("recording.path", "a recording goes to a file, not to standard output", hint="name a file")
        _check_output(config.recording.path, "recording.path", problems)
    if config.tracing is not None:
        _check_tracing(problems)
    if config.decisions is not None:
        if Path(config.decisions.path).name == "-":
            problems.add("decisions.path", "decisions go to a file, not to standard output", hint="name a file")
        _check_output(config.decisions.path, "decisions.path", problems)


def _check_tracing(problems: Problems) -> None:
    """What sends spans is an extra: a fleet that traces nothing has no use for it."""
    try:
        found = importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # not even the packages that it lies in
        found = False
    if not found:
        problems.add("tracing", "needs a part that is not installed", hint="pip install fairlead[otel]")


def _check_output(file: str, path: str, problems: Problems) -> None:
    target = Path(file)
    if os.path.isdir(target):  # unlike Path.is_dir, it puts up with a name that is too long
        problems.add(path, f"'{target}' is a directory", hint="name a file in it")
    elif not os.path.isdir(target.parent):
        problems.add(path, f"the directory '{target.parent}' is not there", hint="create it")


def _check_socket(file: str, path: str, problems: Problems) -> None:
    before = len(problems.found)
    _check_output(file, path, problems)
    if len(problems.found) > before:
        return
    with contextlib.suppress(OSError):  # most often it is not there yet
        if not stat.S_ISSOCK(os.stat(file).st_mode):
            problems.add(path, f"'{file}' is there, and is no socket", hint="choose another path, or remove it")


def _check_tls(tls: Tls, path: str, problems: Problems) -> None:
    _check_pair(tls.cert, tls.key, path, problems)
    for index, more in enumerate(tls.more):
        if more is not None:  # None is a hole, see above
            _check_pair(more.cert, more.key, problems.item(f"{path}.more", index), problems)
    _check_authorities(tls.client_ca, f"{path}.client_ca", problems)


def _check_backend_tls(tls: BackendTls, path: str, problems: Problems) -> None:
    _check_authorities(tls.ca, f"{path}.ca", problems)
    if tls.cert is not None and tls.key is not None:  # one without the other has been reported
        _check_pair(tls.cert, tls.key, path, problems)


def _is_readable(file: str, path: str, problems: Problems) -> bool:
    reason = _why_unreadable(Path(file))
    if reason:
        problems.add(path, f"'{file}' {reason}", value=file)
    return reason is None


def _check_authorities(file: str | None, path: str, problems: Problems) -> None:
    if file is None or not _is_readable(file, path, problems):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        problems.add(path, f"'{file}' holds no certificate in PEM form", value=file, hint="name the CA's certificate")


def _check_pair(cert: str, key: str, path: str, problems: Problems) -> None:
    readable = [_is_readable(file, f"{path}.{name}", problems) for name, file in (("cert", cert), ("key", key))]
    if not all(readable):
        return
    is_locked = False

    def passphrase() -> str:
        """Answers in place of the terminal, which OpenSSL would ask otherwise."""
        nonlocal is_locked
        is_locked = True
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if is_locked:
            problems.add(f"{path}.key", "is protected by a passphrase", value=key, hint="store it without one")
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

    def whole(table: Any) -> Any:
        """A table, and those in it, with the files that it names; of all kinds of options only "file" is touched."""
        changed: dict[str, Any] = {}
        for name, (option, _) in options_of(type(table)).items():
            value = getattr(table, name)
            make = whole if option.table is not None else at_folder if option.kind == "file" else None
            if make is not None and value is not None:
                changed[name] = tuple(each and make(each) for each in value) if option.many else make(value)
        return dataclasses.replace(table, **changed)

    def at_folder(name: str) -> str:
        return name if name == "-" else str(folder / name)

    return whole(config)  # type: ignore[no-any-return]


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
