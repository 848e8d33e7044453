"""Processes under measurement: start, pin, end; how much CPU time and memory did the whole tree use?

Rule 1: every process started here is ended here, by its id, also on Ctrl-C, on an error and if the bench itself
is killed (the kernel then sends SIGTERM to the child).
Rule 2: CPU time is user + system time of all threads, read with nanosecond resolution from the process clock.
Processes of the tree that begin or end between two readings are left out; the proxies here keep theirs.
Rule 3: the proxy gets a core of its own where there are two; stubs and client share the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Cores:
    """Which core runs what; None: let the kernel choose, as there is only one."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.proxy = cores[0] if len(cores) > 1 else None
        self.client = cores[1] if len(cores) > 1 else None
        self.stub = cores[-1] if len(cores) > 1 else None

    def __str__(self) -> str:
        if self.proxy is None:
            return "one core for everything"
        if self.client == self.stub:
            return f"proxy on core {self.proxy}, client and stubs on core {self.client}"
        return f"proxy on core {self.proxy}, client on core {self.client}, stubs on core {self.stub}"

    def proxy_core_seconds(self) -> float:
        """Time that the proxy's core has been busy with anything since boot, to the hundredth of a second."""
        if self.proxy is None:
            return 0.0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name == f"cpu{self.proxy}":
                user, nice, system, _idle, _wait, irq, soft, steal = map(int, ticks[:8])
                return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return 0.0


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    """A port that was free a moment ago; whoever binds it must be ready to be told otherwise."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """One child and its descendants."""

    def __init__(
        self,
        command: Sequence[str],
        core: int | None,
        log: Path,
        env: Mapping[str, str] | None = None,
        talk: bool = False,
    ) -> None:
        """Output goes to `log`; with `talk`, standard input and output are pipes instead."""
        self.log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else out,
                stderr=out,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C reaches the bench alone, which then ends its children in order
                preexec_fn=_prepare(core, os.getpid()),
            )
        self.pid = self._popen.pid

    def line(self) -> str:
        """The next line that a talking child prints."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().decode().strip()

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def tree(self) -> list[int]:
        """The process and its living descendants."""
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = Path("/proc", entry, "stat").read_text()
                    parent = int(stat.rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry))
        found = [self.pid]
        for pid in found:  # grows while we walk it
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> dict[int, float]:
        """CPU time so far, per process of the tree."""
        spent = {}
        for pid in self.tree():
            with contextlib.suppress(OSError):
                spent[pid] = time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
        return spent

    def rss_bytes(self) -> int:
        """Resident memory of the tree (kernel socket buffers are not in it, for no proxy)."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return total

    def log_tail(self, lines: int = 6) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def end(self, grace: float = 5.0) -> None:
        """Ask the process to end, insist after `grace` seconds, leave nothing of its tree behind."""
        tree = self.tree() if self.is_running else []
        if self.is_running:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.pid:  # still the one that we started
                    os.kill(pid, signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()


def _prepare(core: int | None, parent: int) -> Callable[[], None]:
    """What a child does before it becomes the program."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the bench ended before the line above
            os._exit(1)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


class Meter:
    """A stopwatch for CPU: `start`, do the work, `stop`."""

    def __init__(self, process: Process | None, cores: Cores) -> None:
        self._process, self._cores = process, cores

    def start(self) -> None:
        self._before = self._process.cpu_seconds() if self._process else {}
        self._core_before = self._cores.proxy_core_seconds()
        self._at = time.perf_counter()

    def stop(self) -> None:
        wall = time.perf_counter() - self._at
        core = self._cores.proxy_core_seconds() - self._core_before
        after = self._process.cpu_seconds() if self._process else {}
        self.cpu_seconds = spent_between(self._before, after)
        self.busy = self.cpu_seconds / wall
        self.others = max(0.0, core - self.cpu_seconds) / wall  # what else ran on the proxy's core


def spent_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds that the processes known at both ends used in between."""
    return sum(after[pid] - before[pid] for pid in before.keys() & after.keys())
