"""A service for systemd, and the sockets that it holds while Fairlead restarts.

Rule 1: a listener whose address systemd can hold is in the socket unit, so that a restart refuses nobody; the others
        stay Fairlead's own, and a comment says which and why.
Rule 2: the service may do what Fairlead does and nothing else; folders that it writes into come from the config.
Rule 3: times fit: systemd waits longer than `drain` and `drain_delay` together before it kills.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Final

from fairlead.config.schema import Address, Config

SERVICE: Final = "fairlead.service"
SOCKET: Final = "fairlead.socket"
BACKLOG: Final = 4096
WATCHDOG_SECONDS: Final = 10
SPARE_SECONDS: Final = 15  # beyond the drain: answers that are told of their end, logs that are written
_FIRST_FREE_PORT: Final = 1024
_DESCRIPTORS: Final = 1024  # besides two for each client: files, probes, idle connections to backends

_HARDENING: Final = """\
# It may do what it does and nothing else. What this is worth: systemd-analyze security fairlead
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0027
"""


def files(config: Config | None) -> Mapping[str, str]:
    """Unit name -> its text, for `config` or for the defaults."""
    known = config or Config()
    held = [listen.address for listen in known.listen if not _why_not(listen.address)]
    units = {SOCKET: "\n".join(_socket(known, held)) + "\n"} if held else {}
    return {**units, SERVICE: "\n".join(_service(known, held)) + "\n"}


def _socket(config: Config, held: list[Address]) -> Iterator[str]:
    yield "# The sockets of Fairlead, written by `fairlead export systemd`. Copy it to /etc/systemd/system, then:"
    yield "#   systemctl daemon-reload && systemctl enable --now fairlead.socket fairlead.service"
    yield ""
    yield "[Unit]"
    yield "Description=Sockets of Fairlead"
    yield ""
    yield "[Socket]"
    for listen in config.listen:
        if why := _why_not(listen.address):
            yield f"# {listen.address} is not here: {why}; Fairlead opens it itself"
    for address in held:
        yield f"ListenStream={address.path or address}".replace("%", "%%")
    if any(":" in address.host for address in held):
        yield "# as Fairlead has it: an IPv6 address takes no IPv4 connections"
        yield "BindIPv6Only=ipv6-only"
    yield "FileDescriptorName=data"
    yield f"Backlog={BACKLOG}"
    yield ""
    yield "[Install]"
    yield "WantedBy=sockets.target"


def _service(config: Config, held: list[Address]) -> Iterator[str]:
    yield "# Fairlead as a service, written by `fairlead export systemd`. Once, before the first start:"
    yield "#   useradd --system --no-create-home fairlead"
    yield "# and the config file as /etc/fairlead/fairlead.yaml, readable by that user."
    yield ""
    yield "[Unit]"
    yield "Description=Fairlead, a load balancer for inference engines"
    yield "After=network-online.target" + (f" {SOCKET}" if held else "")
    yield "Wants=network-online.target"
    if held:
        yield f"Requires={SOCKET}"
    yield ""
    yield "[Service]"
    yield "Type=notify"
    yield "ExecStart=/usr/local/bin/fairlead serve --config /etc/fairlead/fairlead.yaml"
    yield "ExecReload=/bin/kill -HUP $MAINPID"
    yield "User=fairlead"
    yield "# FAIRLEAD_ADMIN_TOKEN=... may stand there (mode 0600), never in a unit, which anybody can read"
    yield "EnvironmentFile=-/etc/fairlead/environment"
    yield "# a loop that is stuck for so long is killed and started again"
    yield f"WatchdogSec={WATCHDOG_SECONDS}"
    stop = math.ceil(config.drain + config.drain_delay) + SPARE_SECONDS
    yield f"# drain ({config.drain:g} s) and drain_delay ({config.drain_delay:g} s), and some more"
    yield f"TimeoutStopSec={stop}"
    yield "# the first process is told to stop and drains; with workers, it tells them"
    yield "KillMode=mixed"
    yield "Restart=on-failure"
    yield "RestartSec=1"
    yield f"LimitNOFILE={2 * config.limits.connections + _DESCRIPTORS}"
    yield "# for its control socket, see `fairlead serve --takeover`"
    yield "RuntimeDirectory=fairlead"
    yield "RuntimeDirectoryMode=0700"
    yield "Environment=XDG_RUNTIME_DIR=%t/fairlead"
    yield ""
    low = [address for address in (config.admin, *_opened(config)) if 0 < address.port < _FIRST_FREE_PORT]
    yield from _HARDENING.format(capabilities="CAP_NET_BIND_SERVICE" if low else "").rstrip("\n").splitlines()
    for folder in _written(config):
        yield f"ReadWritePaths={_quoted(folder)}"
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _why_not(address: Address) -> str:
    """Why systemd cannot hold this socket; "" when it can."""
    if address.path:
        return "" if address.path.startswith("/") and " " not in address.path else "systemd wants a whole path"
    if address.port == 0:
        return "the system chooses its port"
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return "systemd wants an IP address"
    return ""


def _opened(config: Config) -> list[Address]:
    return [listen.address for listen in config.listen if _why_not(listen.address)]


def _written(config: Config) -> list[str]:
    """Folders that it writes into."""
    paths = [config.access_log.path] if config.access_log.enabled and config.access_log.path != "-" else []
    paths += [table.path for table in (config.recording, config.decisions) if table is not None]
    paths += [address.path for address in _opened(config) if address.path]
    folders = [str(PurePath(path).parent) for path in paths]
    return sorted({folder if folder.startswith("/") else f"/etc/fairlead/{folder}" for folder in folders})


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if " " in path or escaped != path else path
