"""A configuration as it may stand in a container: the YAML text, and what has to come from outside.

Rule 1: options that are as by default are left out, so that the text says what was meant.
Rule 2: secrets are replaced by whatever `reference` makes of their variable's name; see secrecy.py.
Rule 3: addresses are those of the container (all of its own), ports stay; files lie under one folder, each under a
        name of its own; logs go to standard output.
Rule 4: what this changes is said in `notes`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from fairlead.config.schema import Address, Backend, Config, Listen, derived_name, options_of
from fairlead.config.walk import to_plain
from fairlead.control.exports.secrecy import Variables, header_name

FOLDER: Final = "/etc/fairlead"
FILES: Final = f"{FOLDER}-files"  # beside it: a mount inside of a read-only one is trouble
CONFIG_FILE: Final = f"{FOLDER}/fairlead.yaml"
DATA_PORT: Final = 8080
ADMIN_PORT: Final = 9900
_ALL: Final = "0.0.0.0"


@dataclass(slots=True)
class Contained:
    """What a container needs."""

    config: Config
    text: str = ""
    secrets: dict[str, str] = field(default_factory=dict)  # variable -> what belongs there, in words
    files: dict[str, str] = field(default_factory=dict)  # path outside -> path inside
    notes: list[str] = field(default_factory=list)


def contained(config: Config, reference: Callable[[str], str]) -> Contained:
    """`config` for a container; `reference` makes of a variable's name what stands for its value."""
    made = Contained(config)
    made.config = _inside(config, made.notes)
    plain = _Writer(made, reference).table(made.config, ())
    made.text = yaml.safe_dump(plain, sort_keys=False, width=1 << 20)
    return made


def _inside(config: Config, notes: list[str]) -> Config:
    listens = tuple(_listens(config, notes))
    for name in ("recording", "decisions"):
        if getattr(config, name) is not None:
            notes.append(f"{name} is left out: name a file on a volume to have it")
    if config.access_log.enabled and config.access_log.path != "-":
        notes.append("the access log goes to standard output")
    for backend in config.backends:
        if backend.url.startswith("unix:") or _is_loopback(backend.url):
            notes.append(f"backend {backend.name} is on the machine itself, which a container does not reach like that")
    port = config.admin.port or ADMIN_PORT
    return dataclasses.replace(
        config,
        listen=listens,
        admin=Address(_ALL, port),
        admin_token_file=None,  # the token comes in the environment
        recording=None,
        decisions=None,
        access_log=dataclasses.replace(config.access_log, path="-"),
    )


def _listens(config: Config, notes: list[str]) -> list[Listen]:
    """One for each port."""
    found: dict[int, Listen] = {}
    for listen in config.listen:
        if listen.address.path:
            notes.append(f"{listen.address} is left out: other containers reach no socket file")
            continue
        port = listen.address.port or DATA_PORT
        inside = dataclasses.replace(listen, address=Address(_ALL, port))
        if found.setdefault(port, inside) != inside:
            notes.append(f"{listen.address} is left out: its port is another listener's, with other options")
    return list(found.values()) or [Listen(address=Address(_ALL, DATA_PORT))]


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Writer:
    """Options -> plain data."""

    def __init__(self, made: Contained, reference: Callable[[str], str]) -> None:
        self._made, self._reference, self._variables = made, reference, Variables()

    def table(self, value: Any, place: tuple[str, ...]) -> dict[str, Any]:
        whole, written = to_plain(value), {}
        for name, (option, default) in options_of(type(value)).items():
            item = getattr(value, name)
            if item == default or name not in whole or (isinstance(value, Backend) and _is_derived(value, name)):
                continue
            write: Callable[[Any, tuple[str, ...]], Any] | None = {
                "table": self.table, "header": self._header, "secret_url": self._url, "file": self._file,
            }.get(option.kind)  # fmt: skip
            if write is None or item is None:
                written[name] = whole[name]
            elif option.many:
                written[name] = [write(each, _place(place, name, each, n)) for n, each in enumerate(item, 1)]
            else:
                written[name] = write(item, (*place, name))
        return written

    def _header(self, header: str, place: tuple[str, ...]) -> str:
        name = header_name(header)
        return f"{name}: {self._secret((*place[:-1], name), f'the value of the header {name}')}"

    def _url(self, url: str, place: tuple[str, ...]) -> str:
        return self._secret(place, "a URL that is a password as well")

    def _secret(self, place: tuple[str, ...], what: str) -> str:
        name = self._variables.of(*place)
        self._made.secrets[name] = what
        return self._reference(name)

    def _file(self, path: str, place: tuple[str, ...]) -> str:
        if path == "-":
            return path
        files = self._made.files
        if path not in files:
            name = re.sub(r"[^-._a-zA-Z0-9]", "-", PurePath(path).name)  # what a Secret of Kubernetes takes
            while f"{FILES}/{name}" in files.values():
                name = f"{len(files)}-{name}"
            files[path] = f"{FILES}/{name}"
        return files[path]


def _place(place: tuple[str, ...], name: str, item: Any, number: int) -> tuple[str, ...]:
    """Words for the variables of one of several: its name, else its number."""
    if isinstance(item, Backend):
        return (*place, item.name)
    return (*place, name) if isinstance(item, str) else (*place, name, str(number))


def _is_derived(backend: Backend, name: str) -> bool:
    return name == "name" and backend.name == derived_name(backend.url)
