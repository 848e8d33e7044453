"""How is each of the three told to drain a backend, to read its configuration anew, and to be replaced?

Rule 1: each is told as its manual says, and to retry what it can retry; what is not there raises Absent.
Rule 2: whatever was started here is gone after `end`, also processes that a balancer forked and left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import proxies
from bench.procs import Cores, Process, free_port

CHANGES = {
    "nginx": [
        ("master_process off;", "master_process on;"),
        ("127.0.0.1:{};", "127.0.0.1:{} max_fails=0;"),
        (
            "proxy_buffering off;",
            "proxy_buffering off; proxy_next_upstream error timeout http_502 http_503 non_idempotent;",
        ),
    ],
    "haproxy": [
        ("  nbthread 1\n", "  nbthread 1\n  stats socket {dir}/admin.sock mode 600 level admin expose-fd listeners\n"),
        (
            "  http-reuse always\n",
            "  http-reuse always\n  option redispatch 1\n  option abortonclose\n  retries 3\n"
            "  retry-on conn-failure empty-response 502 503\n  option httpchk GET /health\n",
        ),
        ("127.0.0.1:{0}", "127.0.0.1:{0} check inter 1s fall 3 rise 2"),
    ],
}


def wait_until(what: str, look: Callable[[], bool], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if look():
                return
        time.sleep(0.05)
    raise proxies.Absent(f"{what}: not within {seconds:g} s")


class Balancer:
    """One of them, running; what differs is in the subclasses."""

    def __init__(self, name: str, folder: Path, ports: Sequence[int], cores: Cores, files: int) -> None:
        self.name, self.folder, self.ports, self.cores = name, folder, list(ports), cores
        self.running = proxies.start(name, folder, ports, cores, files)
        self.port = self.running.port
        self.processes = [self.running.measured]
        (self.config,) = (path for path in folder.iterdir() if path.stem == name and path.suffix != ".pid")

    def rewrite(self, old: str, new: str) -> None:
        """Change the configuration, in one step as editors do it."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(self.config.read_text().replace(old, new))
        fresh.rename(self.config)

    def drain(self, number: int) -> None:
        raise NotImplementedError

    def undrain(self, number: int) -> None:
        raise NotImplementedError

    def reload(self) -> None:
        raise NotImplementedError

    def upgrade(self) -> None:
        raise NotImplementedError

    def lag(self) -> float:
        """How late its event loop was when it last looked; 0 where it does not tell."""
        return 0.0

    def end(self) -> None:
        for process in self.processes:
            session = process.pid
            process.end()
            for entry in filter(str.isdigit, os.listdir("/proc")):  # a worker may outlive its master
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(entry)) == session:
                        os.kill(int(entry), signal.SIGKILL)


class Nginx(Balancer):
    def _pid(self) -> int:
        return int((self.folder / "nginx.pid").read_text())

    def reload(self) -> None:
        os.kill(self._pid(), signal.SIGHUP)

    def drain(self, number: int) -> None:
        self.rewrite(f":{self.ports[number]} max_fails=0;", f":{self.ports[number]} max_fails=0 down;")
        self.reload()

    def undrain(self, number: int) -> None:
        self.rewrite(f":{self.ports[number]} max_fails=0 down;", f":{self.ports[number]} max_fails=0;")
        self.reload()

    def upgrade(self) -> None:
        """Its master ignores USR2 as long as whoever started it is its parent, and here that is the bench."""
        raise proxies.Absent("USR2 is for daemons only")


class Haproxy(Balancer):
    def _say(self, line: str) -> None:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.connect(str(self.folder / "admin.sock"))
            talk.sendall(line.encode() + b"\n")
            talk.recv(4096)

    def drain(self, number: int) -> None:
        self._say(f"set server engines/s{self.ports[number]} state drain")

    def undrain(self, number: int) -> None:
        self._say(f"set server engines/s{self.ports[number]} state ready")

    def upgrade(self) -> None:
        """A new process takes the sockets (-x) and tells the old one to finish (-sf)."""
        old = self.processes[-1]
        command = [str(proxies.find("haproxy")), "-db", "-f", str(self.config)]
        command += ["-x", str(self.folder / "admin.sock"), "-sf", str(old.pid)]
        log = self.folder / f"output-{len(self.processes) + 10}.log"
        self.processes.append(Process(command, self.cores.proxy, log, env=proxies.environment()))

    def reload(self) -> None:
        self.upgrade()


class Fairlead(Balancer):
    def __init__(self, name: str, folder: Path, ports: Sequence[int], cores: Cores, files: int) -> None:
        proxies.CHANGES["fairlead"] = [("admin: 127.0.0.1:0", f"admin: 127.0.0.1:{free_port()}")]  # kept by upgrades
        super().__init__(name, folder, ports, cores, files)
        found = re.search(r"admin on (http://\S+)", self.running.measured.log.read_text())
        if found is None:
            raise proxies.Absent("fairlead did not say where its admin port is")
        self.admin = found[1]
        wait_until("fairlead to use all", lambda: all(row["state"] == "up" for row in self._backends()))

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.admin + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            return json.load(answer)

    def _backends(self) -> list[dict[str, Any]]:
        return list(self.ask("GET", "/api/backends")["backends"])

    def drain(self, number: int) -> None:
        self.ask("PATCH", f"/api/backends/127.0.0.1:{self.ports[number]}", {"drain": True})

    def undrain(self, number: int) -> None:
        self.ask("PATCH", f"/api/backends/127.0.0.1:{self.ports[number]}", {"drain": False})

    def reload(self) -> None:
        self.ask("POST", "/api/reload", {})

    def upgrade(self) -> None:
        """A new process takes the sockets; it says `admin on` once it serves, and the old one finishes and ends."""
        log = self.folder / f"output-{len(self.processes) + 10}.log"
        command = [*proxies.PYTHON, "-m", "fairlead", "serve", str(self.config), "--takeover"]
        process = Process(command, self.cores.proxy, log, env=proxies.environment())
        self.processes.append(process)
        wait_until("fairlead to take over", lambda: "admin on" in log.read_text() or not process.is_running)
        if not process.is_running:
            raise proxies.Absent(f"fairlead did not take over: {process.log_tail(1)}")

    def lag(self) -> float:
        with urllib.request.urlopen(self.admin + "/metrics", timeout=10.0) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("fairlead_loop_lag_seconds "):
                    return float(line.split()[1])
        return 0.0


KINDS: dict[str, type[Balancer]] = {"fairlead": Fairlead, "nginx": Nginx, "haproxy": Haproxy}
