"""`fairlead export systemd`: systemd takes the units, and they fit the config, the docs and Fairlead itself."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from exports_tools import PATIENCE, config

from fairlead.config.schema import Config
from fairlead.control.exports.systemd import SERVICE, SOCKET, files
from fairlead.control.systemd import activated

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
EXPOSED_LEAST = 2.0  # what `systemd-analyze security` may say; 0 is best, 10 is none


class _Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit(made: Config | None, name: str = SERVICE) -> Any:
    parser = _Unit(strict=False)
    parser.read_string(files(made)[name])
    return parser


def analyze(folder: Path, made: Config | None, *arguments: str) -> str:
    """What `systemd-analyze` says about the written units; the command they start is one that is there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    written = []
    for name, text in files(made).items():
        file = folder / name
        file.write_text(text.replace("/usr/local/bin/fairlead ", f"{shutil.which('true')} "), encoding="utf-8")
        written.append(str(file))
    done = subprocess.run(
        [program, *arguments, *(written if arguments[0] == "verify" else [str(folder / SERVICE)])],
        capture_output=True, text=True, timeout=PATIENCE, check=False, env={**os.environ, "SYSTEMD_COLORS": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


CONFIGS: list[dict[str, Any]] = [
    {},
    {"listen": ["0.0.0.0:443", "[::]:443", "unix:/run/fairlead.sock"]},
    {"listen": ["localhost:8080", "127.0.0.1:0"]},
    {"listen": ["localhost:80"], "admin": "127.0.0.1:990"},
    {"access_log": {"path": "/var/log/my fairlead/100%.log"}, "recording": "/srv/r/t.jsonl"},
    {"drain": 0, "drain_delay": "1500ms"},
]


@pytest.mark.parametrize("data", CONFIGS, ids=str)
def test_systemd_finds_nothing_wrong(tmp_path: Path, data: dict[str, Any]) -> None:
    assert analyze(tmp_path, config(data), "verify") == ""


def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "x.service").write_text(
        files(None)[SERVICE].replace("WatchdogSec", "WatchdogSeconds"), encoding="utf-8"
    )
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run([program, "verify", str(tmp_path / "x.service")], capture_output=True, text=True, check=False)
    assert "WatchdogSeconds" in done.stderr


def test_the_service_is_exposed_as_little_as_it_can_be(tmp_path: Path) -> None:
    said = analyze(tmp_path, None, "security", "--offline=true", "--no-pager")
    found = re.search(r"Overall exposure level for fairlead.service: ([0-9.]+)", said)
    assert found is not None and float(found[1]) <= EXPOSED_LEAST, said


# --- what they say --------------------------------------------------------------------------------------------


def test_systemd_waits_longer_than_the_drain() -> None:
    service = unit(config({"drain": "90s", "drain_delay": "2500ms"}))["Service"]
    assert int(service["TimeoutStopSec"]) >= 90 + 3 + 10
    assert service["KillMode"] == "mixed"


def test_it_is_ready_when_it_says_so_and_the_watchdog_is_on() -> None:
    service = unit(None)["Service"]
    assert (service["Type"], service["WatchdogSec"], service["NoNewPrivileges"]) == ("notify", "10", "yes")


def test_it_may_open_as_many_files_as_its_clients_need() -> None:
    assert int(unit(config({"limits": {"connections": 5000}}))["Service"]["LimitNOFILE"]) >= 2 * 5000


def test_folders_that_it_writes_into_are_open_to_it_and_no_others() -> None:
    text = files(
        config(
            {
                "access_log": {"path": "/var/log/f/a.log"},
                "recording": "/srv/r/t.jsonl",
                "decisions": {"path": "/srv/d/d.jsonl"},
            }
        )
    )[SERVICE]
    assert re.findall("ReadWritePaths=(.*)", text) == ["/srv/d", "/srv/r", "/var/log/f"]
    assert "ReadWritePaths" not in files(None)[SERVICE]


def test_low_ports_need_a_capability_only_where_fairlead_opens_them_itself() -> None:
    for data, capability in [
        ({"listen": "0.0.0.0:443"}, ""),
        ({"listen": "localhost:443"}, "CAP_NET_BIND_SERVICE"),
        ({"admin": "127.0.0.1:99"}, "CAP_NET_BIND_SERVICE"),
    ]:
        assert unit(config(data))["Service"]["AmbientCapabilities"] == capability, data


def test_what_systemd_cannot_hold_is_left_to_fairlead_and_said() -> None:
    text = files(config({"listen": ["localhost:8080", "0.0.0.0:8081", "127.0.0.1:0"]}))[SOCKET]
    assert "# localhost:8080 is not here: systemd wants an IP address; Fairlead opens it itself" in text
    assert "# 127.0.0.1:0 is not here: the system chooses its port" in text
    assert re.findall("^ListenStream=(.*)", text, re.MULTILINE) == ["0.0.0.0:8081"]


def test_without_anything_to_hold_there_is_no_socket_unit() -> None:
    made = files(config({"listen": "localhost:8080"}))
    assert list(made) == [SERVICE] and SOCKET not in made[SERVICE]


def test_fairlead_takes_the_sockets_that_the_unit_asks_for(tmp_path: Path) -> None:
    """Opened here as systemd would, and matched by the code that a start runs."""
    made = config({"listen": ["127.0.0.1:18080", "[::1]:18080", f"unix:{tmp_path}/f.sock"]})
    parser = unit(made, SOCKET)
    name = parser["Socket"]["FileDescriptorName"]
    streams = re.findall("^ListenStream=(.*)", files(made)[SOCKET], re.MULTILINE)
    assert streams == ["127.0.0.1:18080", "[::1]:18080", f"{tmp_path}/f.sock"]
    assert parser["Socket"]["BindIPv6Only"] == "ipv6-only"
    held = socket.socket(socket.AF_UNIX)
    held.bind(streams[2])
    held.listen()
    first = held.detach()
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
    found = asyncio.run(activated([each.address for each in made.listen], made.admin, environ, first))
    assert list(found) == [f"unix:{tmp_path}/f.sock"]
    for each in found.values():
        each[0].close()


def test_the_docs_show_these_very_units() -> None:
    text = OPERATING.read_text("utf-8")
    for name, written in files(None).items():
        shown = re.search(rf"<!-- {re.escape(name)} -->\n```ini\n(.*?)```", text, re.DOTALL)
        assert shown is not None and shown[1] == written, f"docs/operating.md: {name} is written anew by the export"
