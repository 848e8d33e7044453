"""Does systemd hear what it wants to hear, and do we find the sockets that it opened?"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import chat, engine

from fairlead.config.schema import Address
from fairlead.control import takeover
from fairlead.control.systemd import ActivationError, Notifier, activated

ADMIN = Address("127.0.0.1", 9)


@pytest.fixture(params=["file", "abstract"])
def ear(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "file":
            name = f"{folder}/n"
            sock.bind(name)
        else:
            sock.bind("")  # the kernel makes up an abstract name
            name = "@" + sock.getsockname()[1:].decode()
        sock.settimeout(10)
        yield sock, name


def test_news_arrive_as_systemd_reads_them(ear: tuple[socket.socket, str]) -> None:
    sock, name = ear

    async def body() -> None:
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())})
        assert notifier.watchdog == 0.001
        notifier.ready(lambda: "3 of 4 backends up")
        assert sock.recv(999) == b"READY=1\nSTATUS=3 of 4 backends up"
        assert not select.select([sock], [], [], 0.0)[0]  # a loop that is stuck feeds no watchdog
        assert await asyncio.to_thread(sock.recv, 999) == b"WATCHDOG=1"
        notifier.reloading()
        notifier.stopping()
        notifier.handed_on(7)
        notifier.stopping()  # would be taken for the other's
        notifier.close()

    asyncio.run(body())
    heard = [sock.recv(999) for _ in range(len(select.select([sock], [], [], 0.0)[0]))]
    while select.select([sock], [], [], 0.0)[0]:
        heard.append(sock.recv(999))
    heard = [each for each in heard if each != b"WATCHDOG=1"]
    assert heard[0].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert heard[1:] == [b"STOPPING=1\nSTATUS=draining", b"MAINPID=7"]


def test_another_process_s_watchdog_and_a_deaf_socket_are_nothing_to_us() -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere/n", "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"})
    assert notifier.watchdog == 0.0
    notifier.stopping()
    notifier.close()


def given(*sockets: socket.socket, names: str = "", listens: tuple[Address, ...] = ()) -> dict[str, list[str]]:
    """What becomes of these, where they are the descriptors that follow each other."""
    first = 200
    for number, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + number)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
    found = asyncio.run(activated(listens, ADMIN, environ, first))
    assert environ == {}
    shown = {key: [str(sock.getsockname()) for sock in each] for key, each in found.items()}
    for each in found.values():
        for sock in each:
            sock.close()
    return shown


def test_sockets_are_matched_by_address_and_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        with socket.socket(socket.AF_UNIX) as c:
            c.bind(path)
            c.listen()
            data, unix = Address(*a.getsockname()), Address("", 0, path)
            found = given(a, b, c, names="x:admin:y", listens=(unix, data))
        assert found == {str(data): [str(a.getsockname())], "admin": [str(b.getsockname())], f"unix:{path}": [path]}


def test_what_fits_nothing_or_does_not_listen_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.socket() as b:
        with pytest.raises(ActivationError, match="nothing is configured there"):
            given(a, listens=(Address("127.0.0.1", 9),))
        with pytest.raises(ActivationError, match="does not listen"):
            given(b, listens=(Address("0.0.0.0", 0),))


def test_sockets_for_another_process_are_left_alone() -> None:
    assert asyncio.run(activated((), ADMIN, {"LISTEN_PID": "1", "LISTEN_FDS": "1"})) == {}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_the_units_of_the_docs_are_what_systemd_takes(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/operating.md").read_text("utf-8")
    units = []
    for kind in ("socket", "service"):
        part = text.split(f"<!-- fairlead.{kind} -->\n```ini\n")[1].split("```")[0]
        path = tmp_path / f"fairlead.{kind}"
        path.write_text(part.replace("/usr/local/bin/fairlead", sys.executable).replace("User=fairlead\n", ""))
        units.append(str(path))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "fairlead" in line] == []


# --- who may take over ---------------------------------------------------------------------------------------


def test_only_the_same_user_and_root_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert [takeover.is_trusted(uid) for uid in (0, 1000, 1001)] == [True, True, False]


def test_a_wrong_user_gets_a_refusal_and_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def body() -> None:
        path = str(tmp_path / "c")

        async def release(pid: int) -> None:
            raise AssertionError("nobody was ready")

        with socket.create_server(("127.0.0.1", 0)) as sock:
            offer = takeover.Offer(path, lambda: takeover.Offered({"a": [sock]}), release)
            offer.open()
            monkeypatch.setattr(takeover, "is_trusted", lambda uid: False)
            line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line.connect(path)
            data, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, line, 999, 9)
            assert b"may not have the sockets" in data
            assert descriptors == []
            line.close()
            offer.close()
            assert not os.path.exists(path)  # noqa: ASYNC240

    asyncio.run(body())


def test_the_folder_must_be_private_and_its_path_short(tmp_path: Path) -> None:
    made = takeover.control_path("a:1", {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert os.stat(os.path.dirname(made)).st_mode & 0o777 == 0o700
    os.chmod(os.path.dirname(made), 0o755)
    with pytest.raises(takeover.TakeoverError, match="you alone"):
        takeover.control_path("a:1", {"XDG_RUNTIME_DIR": str(tmp_path)})
    with pytest.raises(takeover.TakeoverError, match="more than 107 bytes"):
        takeover.control_path("a:1", {"XDG_RUNTIME_DIR": "/" + "x" * 100})


# --- a whole process, started as systemd does it -------------------------------------------------------------


def test_a_service_serves_on_the_sockets_that_it_was_given_and_tells_its_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as data,
        socket.create_server(("127.0.0.1", 0)) as admin,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
        engine() as url,
    ):
        ear.bind(f"{folder}/n")
        ear.settimeout(30)
        port = data.getsockname()[1]
        serve = f"{sys.executable} -m fairlead serve {url} --listen 127.0.0.1:{port} --admin 127.0.0.1:1"
        environ = {**os.environ, "XDG_RUNTIME_DIR": folder, "NOTIFY_SOCKET": f"{folder}/n"}
        fds = data.fileno(), admin.fileno()
        command = (
            f"exec 30<&{fds[0]} 31<&{fds[1]}; exec 3<&30 4<&31; export LISTEN_PID=$$ LISTEN_FDS=2 "
            f"LISTEN_FDNAMES=data:admin; exec {serve}"
        )
        child = subprocess.Popen(
            ["/bin/bash", "-c", command], env=environ, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            assert ear.recv(999) == b"READY=1\nSTATUS=1 of 1 backends up"
            assert chat(f"http://127.0.0.1:{port}") == 200
            with urllib.request.urlopen(f"http://127.0.0.1:{admin.getsockname()[1]}/readyz", timeout=10) as answer:
                assert answer.status == 200
            child.send_signal(signal.SIGHUP)  # without a file a reload is refused, and told all the same
            assert ear.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert ear.recv(999) == b"READY=1"
            child.terminate()
            assert ear.recv(999) == b"STOPPING=1\nSTATUS=draining"
            assert child.wait(timeout=30) == 0
        finally:
            child.kill()
            child.communicate()
