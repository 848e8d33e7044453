"""The proxies under comparison: how is each one started with the same job?

The job: one worker process, two upstreams, fewest connections first (fairlead: its own default policy), keep-alive on
both sides, nothing buffered on the way back, request bodies up to 1 MiB kept in memory, an access log to a file; on a
second port the same with TLS 1.3 and one ECDSA certificate for all.
Rule 1: a proxy counts as started when it has answered a real request with 200.
Rule 2: fairlead runs from a copy of the source tree taken when the bench starts, so that every process of one run is
the same version even if somebody edits meanwhile.
Rule 3: a proxy that is not there, or does not start, is said so plainly; the others are measured all the same.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from bench.procs import Cores, Process, free_port
from bench.work import fixed

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("nginx", "fairlead", "haproxy")
_UNPACKED = ROOT / ".tools" / "root"  # where scripts/need.sh puts packages when it may not install them
_START_SECONDS = 20.0

PYTHON = [sys.executable]
"""How fairlead's interpreter is started; the profiler puts itself in between."""
_SOURCE = [ROOT / "src"]
CHANGES: dict[str, list[tuple[str, str]]] = {}
"""What is replaced in the configuration of each, for comparisons with one that was told more."""

_NGINX = """\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  upstream engines {{
    least_conn;
{servers}
    keepalive 100;
  }}
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    client_max_body_size 64m;
    client_body_buffer_size 1m;
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

_HAPROXY = """\
global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  log stdout format raw daemon
  option httplog
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
frontend in
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{tls} ssl crt {cert} ssl-min-ver TLSv1.3
  default_backend engines
backend engines
  balance leastconn
  http-reuse always
{servers}
"""

_FAIRLEAD = """\
listen:
  - 127.0.0.1:{port}
  - address: 127.0.0.1:{tls}
    tls: {{cert: "{cert}", key: "{key}", min_version: "1.3"}}
admin: 127.0.0.1:0
access_log: {{path: "{dir}/access.log"}}
backends:
{servers}
"""


class Absent(Exception):
    """This proxy cannot be measured here; the text says why."""


@dataclass
class Running:
    """A proxy that answers, or the stub itself (`process` is None) where figures without a proxy are wanted."""

    name: str
    port: int
    process: Process | None = None
    tls_port: int = 0

    @property
    def measured(self) -> Process:
        assert self.process is not None
        return self.process


def find(program: str) -> Path:
    """The program on the path, in the system's own folders, or where scripts/need.sh unpacked it."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    path = os.pathsep.join((path, str(_UNPACKED / "usr/sbin"), str(_UNPACKED / "usr/bin")))
    found = shutil.which(program, path=path)
    if found is None:
        raise Absent(f"{program} is not installed; scripts/need.sh {program} fetches it")
    return Path(found)


def fetch(program: str) -> str | None:
    """Try to get a missing program; returns what to tell the user, None when it was there already."""
    try:
        find(program)
        return None
    except Absent:
        done = subprocess.run(
            [str(ROOT / "scripts" / "need.sh"), program], text=True, capture_output=True, timeout=300, check=False
        )
        return (done.stdout + done.stderr).strip()


def version(name: str) -> str:
    """What the program says about itself, in one line."""
    if name == "fairlead":
        command = [sys.executable, "-c", "import fairlead; print('fairlead', fairlead.__version__)"]
    else:
        command = [str(find(name)), "-v"]
    done = subprocess.run(command, text=True, capture_output=True, env=environment(), timeout=20, check=False)
    line = ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]
    line = line.removeprefix("nginx version: ").replace("HAProxy version ", "haproxy ")
    return " ".join(line.split()[:2])


def copy_source(folder: Path) -> None:
    """Take the copy that fairlead is run from."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    _SOURCE[0] = folder / "src"


def environment() -> dict[str, str]:
    """The copied source goes first on Python's path; unpacked libraries are found."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_SOURCE[0]), env.get("PYTHONPATH"))))
    if _UNPACKED.is_dir():
        folders = [str(folder) for folder in (_UNPACKED / "usr/lib").glob("*-linux-*")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*folders, env.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    return env


@dataclass(frozen=True)
class _Plan:
    """What a proxy is to do, and where it may write."""

    dir: Path
    port: int
    tls: int
    upstreams: Sequence[int]
    files: int

    def write(self, name: str, text: str, server: str, connections: int) -> Path:
        """Its configuration, from the template `text`, with a line like `server` for each upstream."""
        cert, key = _certificate(self.dir.parent)
        for old, new in CHANGES.get(Path(name).stem, ()):
            text, server = text.replace(old, new), server.replace(old, new)
        servers = "\n".join(server.format(upstream) for upstream in self.upstreams)
        config = self.dir / name
        config.write_text(
            text.format(
                dir=self.dir, port=self.port, tls=self.tls, cert=cert, key=key, servers=servers, files=self.files,
                connections=connections,
            )
        )  # fmt: skip
        return config


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, with its key in the same file, as haproxy wants it; and the key alone."""
    cert, key = folder / "tls.pem", folder / "tls.key"
    if not cert.exists():
        made = trustme.CA().issue_cert("127.0.0.1")
        key.write_bytes(made.private_key_pem.bytes())
        cert.write_bytes(made.private_key_and_cert_chain_pem.bytes())
    return cert, key


def _nginx(plan: _Plan) -> list[str]:
    config = plan.write("nginx.conf", _NGINX, "    server 127.0.0.1:{};", min(8192, plan.files))
    folder = plan.dir
    return [str(find("nginx")), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]


def _haproxy(plan: _Plan) -> list[str]:
    config = plan.write("haproxy.cfg", _HAPROXY, "  server s{0} 127.0.0.1:{0}", min(4000, plan.files // 3))
    return [str(find("haproxy")), "-db", "-f", str(config)]


def _fairlead(plan: _Plan) -> list[str]:
    config = plan.write("fairlead.yaml", _FAIRLEAD, "  - http://127.0.0.1:{}", 0)
    return [*PYTHON, "-m", "fairlead", "serve", str(config)]


_COMMANDS: dict[str, Callable[[_Plan], list[str]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "fairlead": _fairlead,
}


def start(name: str, folder: Path, upstreams: Sequence[int], cores: Cores, files: int) -> Running:
    """Start a proxy in its own folder and wait until it serves; raises Absent."""
    folder.mkdir(parents=True)
    for attempt in range(3):  # a port may be taken between choice and use
        port, tls_port = free_port(), free_port()
        command = _COMMANDS[name](_Plan(folder, port, tls_port, upstreams, files))
        process = Process(command, cores.proxy, folder / f"output-{attempt}.log", env=environment())
        try:
            why = _wait_until_serving(process, port)
        except BaseException:
            process.end()
            raise
        if why is None:
            return Running(name, port, process, tls_port)
        process.end()
        if "in use" not in process.log_tail(50):
            break
    raise Absent(f"{name} did not start: {why}\n{process.log_tail()}".rstrip())


def _wait_until_serving(process: Process, port: int) -> str | None:
    """None once a request was answered with 200, else why not."""
    request = fixed(400, 1)[0].wire.partition(b"\r\n\r\n")[2]
    deadline = time.monotonic() + _START_SECONDS
    why = f"no answer within {_START_SECONDS:.0f} s"
    while time.monotonic() < deadline:
        if not process.is_running:
            return "it ended at once"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/v1/chat/completions", request, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return None
            why = f"answers {answer.status} {text[:200].decode(errors='replace')}"
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    return why


class Stubs:
    """Two upstream stubs in processes of their own."""

    def __init__(self, folder: Path, cores: Cores, count: int = 2) -> None:
        self._processes: list[Process] = []
        self.ports: list[int] = []
        env = {"PYTHONPATH": str(ROOT)}
        try:
            for index in range(count):
                log = folder / f"stub-{index}.log"
                process = Process([sys.executable, "-m", "bench.stub"], cores.stub, log, env=env, talk=True)
                self._processes.append(process)
                word, _, port = process.line().partition(" ")
                if word != "port":
                    raise RuntimeError(f"the stub did not start: {process.log_tail()}")
                self.ports.append(int(port))
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        for process in self._processes:
            process.end()
