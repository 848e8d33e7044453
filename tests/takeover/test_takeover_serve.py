"""One `fairlead serve` takes over from another: is anybody refused, reset, or left without the end of a stream?

Real processes on real sockets. The control socket lies in a folder of the test, so no test takes over from another.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cli_process import Served, chat, engine, serving

ADMIN = "127.0.0.1:0"
HANDOVERS = 5
BODY = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short, as a Unix socket's path must be
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def config(folder: Path, url: str, *listens: str, workers: int = 1, extra: str = "") -> str:
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(
        f"listen: [{', '.join(map(repr, listens))}]\nadmin: {ADMIN}\nbackends: ['{url}']\nworkers: {workers}\n"
        f"access_log: {{enabled: false}}\n{extra}"
    )
    return str(path)


def ended(served: Served) -> int:
    status: int = served.process.wait(timeout=30)
    return status


class Load:
    """Short requests, each on a connection of its own, until told to stop."""

    def __init__(self, url: str) -> None:
        self.done, self.problems = 0, list[str]()
        self._address, self._over = url.removeprefix("http://"), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):  # steady, and the new process gets a core, too
            connection = http.client.HTTPConnection(self._address, timeout=20)
            try:
                connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.problems.append(f"status {answer.status}")
                self.done += 1
            except (OSError, http.client.HTTPException) as problem:
                self.problems.append(repr(problem))
            finally:
                connection.close()


def stream(url: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream that has begun."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/chat/completions", STREAM, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: {")
    return connection, answer


def test_takeovers_in_a_row_cost_no_request_and_no_stream(tmp_path: Path) -> None:
    held = threading.Event()
    with engine(held) as url:
        file = config(tmp_path, url, "127.0.0.1:0")
        running = [Served(file)]
        streams = []
        try:
            address = running[0].listening[0]
            with Load(address) as load:
                for _ in range(HANDOVERS):
                    streams.append(stream(address))
                    running.append(Served(file, "--takeover"))
                    assert running[-1].listening == [address]
                    assert running[-1].admin == running[0].admin
                    if len(streams) > 2:  # it began two processes ago
                        held.set()
                        held.clear()
                        for connection, answer in streams:
                            assert answer.read().endswith(b"data: [DONE]\n\n")
                            connection.close()
                        streams.clear()
            held.set()
            for connection, answer in streams:
                assert answer.read().endswith(b"data: [DONE]\n\n")
                connection.close()
            assert [ended(served) for served in running[:-1]] == [0] * HANDOVERS
            assert load.problems == []
            assert load.done > HANDOVERS
            assert chat(address) == 200
        finally:
            held.set()
            for served in running:
                served.end()


def test_a_start_that_fails_leaves_the_old_one_serving_and_its_socket_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with engine() as url, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(config(tmp_path, url, "127.0.0.1:0", f"unix:{path}")) as old:
            failed = subprocess.run(
                [sys.executable, "-m", "fairlead", "serve", "--takeover", "--config",
                 config(tmp_path, url, "127.0.0.1:0", f"unix:{path}", busy)],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert failed.returncode == 1
            assert "this port is in use" in failed.stderr
            assert chat(old.listening[0]) == 200
            assert path.exists()
            old.process.terminate()
            assert ended(old) == 0
            assert "ended before it was ready to take over: this one serves on" in old.end()[1]
            assert not path.exists()


def test_a_unix_socket_keeps_its_file_and_one_more_address_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with engine() as url, serving(config(tmp_path, url, f"unix:{path}", "127.0.0.1:0")) as old:
        before = os.stat(path).st_ino
        more = config(tmp_path, url, f"unix:{path}", "127.0.0.1:0", "[::1]:0")
        with serving(more, "--takeover") as new:
            assert ended(old) == 0
            assert os.stat(path).st_ino == before
            assert new.listening[1] == old.listening[1]
            assert chat(new.listening[2]) == 200
            with serving(
                config(tmp_path, url, "127.0.0.1:0"), "--takeover"
            ) as last:  # that file is not wanted any more
                assert ended(new) == 0
                assert not path.exists()
                assert chat(last.listening[0]) == 200


def test_nobody_to_take_over_from_is_said_and_no_reason_not_to_start(tmp_path: Path) -> None:
    with engine() as url, serving(config(tmp_path, url, "127.0.0.1:0"), "--takeover") as alone:
        assert chat(alone.listening[0]) == 200
        assert "nothing to take over" in alone.end()[1]


def test_a_port_in_use_names_the_way_and_the_running_one_takes_no_notice(tmp_path: Path) -> None:
    with engine() as url, serving(config(tmp_path, url, "127.0.0.1:0")) as old:
        second = config(tmp_path, url, old.listening[0].removeprefix("http://"))
        failed = subprocess.run(
            [sys.executable, "-m", "fairlead", "serve", second], capture_output=True, text=True, timeout=60
        )
        assert failed.returncode == 1
        assert "or take over from the fairlead that runs there, with --takeover" in failed.stderr
        assert chat(old.listening[0]) == 200
        assert "over" not in old.end()[1]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_more_or_fewer_workers_take_over(tmp_path: Path, before: int, after: int) -> None:
    with engine() as url, serving(config(tmp_path, url, "127.0.0.1:0", workers=before)) as old:
        with Load(old.listening[0]) as load:
            with serving(config(tmp_path, url, "127.0.0.1:0", workers=after), "--takeover") as new:
                assert ended(old) == 0
                assert new.listening == old.listening
                assert chat(new.listening[0]) == 200
                load.__exit__()
        assert load.problems == []


def test_a_tls_listener_is_taken_over_with_the_new_one_s_certificate(tmp_path: Path) -> None:
    def certified(name: str) -> str:
        leaf = trustme.CA().issue_cert(name)
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
        leaf.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        tls = f"{{cert: {name}.crt, key: {name}.key}}"
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"listen: {{address: '127.0.0.1:0', tls: {tls}}}\nadmin: {ADMIN}\nbackends: ['{url}']\n")
        return str(path)

    with engine() as url, serving(certified("old.test")) as old:
        host, _, port = old.listening[0].removeprefix("https://").partition(":")
        first = ssl.get_server_certificate((host, int(port)))
        with serving(certified("new.test"), "--takeover") as new:
            assert ended(old) == 0
            assert new.listening == old.listening
            assert ssl.get_server_certificate((host, int(port))) == (tmp_path / "new.test.crt").read_text() != first
