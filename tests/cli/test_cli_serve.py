"""`fairlead serve` as users run it: a few real processes, and the option checks without one."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from cli_process import Served, chat, engine, serving
from click.testing import CliRunner

from fairlead import __version__
from fairlead.cli.main import main

# --- running -------------------------------------------------------------------------------------------------


def test_it_says_what_it_found_serves_logs_and_ends_with_0_on_sigterm() -> None:
    options = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json")
    with engine() as url, serving(url, *options, "--policy", "round_robin") as served:
        name = url.removeprefix("http://")
        assert served.printed[0] == f"fairlead {__version__}, policy round_robin"
        assert served.printed[1].split() == [name, "up", "vllm:", "m"]
        (data,) = served.listening
        assert urlsplit(data).port
        assert chat(data) == 200
        with urllib.request.urlopen(f"{served.admin}/readyz", timeout=10) as answer:
            assert json.load(answer) == {"status": "ready"}
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        output, errors = served.end()
    (line,) = output.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["status"]) == ("mine", 200)
    assert "Traceback" not in errors


def test_a_backend_that_is_down_is_no_reason_not_to_start() -> None:
    with serving("127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0") as served:
        assert served.printed[1].split(None, 2) == [
            "127.0.0.1:1", "down", "connection refused; it joins by itself when it answers",
        ]  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served.listening[0]}/health", timeout=10)
        with refused.value as answer:
            assert (answer.status, json.load(answer)) == (503, {"status": "no backend is up"})
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0


def test_files_of_the_command_line_lie_where_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not beside the config file, as the files that it names do."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    with engine() as url:
        (there / "fairlead.yaml").write_text(
            f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nbackends: ['{url}']\npolicy: random\n", encoding="utf-8"
        )
        options = ("--access-log", "access.log", "--record", "trace.jsonl", "--shadow", "round_robin")
        with serving("../there/fairlead.yaml", *options) as served:
            assert served.printed[0].endswith("policy random, shadow round_robin")
            assert f"recording to {here / 'trace.jsonl'}" in served.printed
            assert chat(served.listening[0]) == 200
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 0
    assert {file.name for file in here.iterdir()} == {"access.log", "trace.jsonl", "trace.jsonl.salt"}
    assert {file.name for file in there.iterdir()} == {"fairlead.yaml"}
    assert "POST /v1/chat/completions 200" in (here / "access.log").read_text(encoding="utf-8")
    header, request = (here / "trace.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(header)["policy"] == "random"
    assert json.loads(request)["status"] == 200


@pytest.mark.parametrize("option", ["listen", "admin"])
def test_a_port_in_use_is_one_sentence_and_status_1(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        other = "admin" if option == "listen" else "listen"
        done = subprocess.run(
            [sys.executable, "-m", "fairlead", "serve", "127.0.0.1:1", f"--{option}", address, f"--{other}",
             "127.0.0.1:0"],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"cannot start: {option} {address}: this port is in use: "
        f"stop what listens there, or choose another with --{option}\n"
    )


# --- TLS -----------------------------------------------------------------------------------------------------


class Secure:
    """A Fairlead with a TLS listener, and the authority that signed its certificate."""

    def __init__(self, served: Served, authority: trustme.CA) -> None:
        self.served, self.authority = served, authority
        self.address = ("127.0.0.1", urlsplit(served.listening[0]).port or 0)

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def version_with(self, context: ssl.SSLContext) -> str | None:
        """The TLS version that the two agree upon."""
        with socket.create_connection(self.address, timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                return secure.version()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    with engine() as url:
        (folder / "fairlead.yaml").write_text(
            "listen: {address: '127.0.0.1:0', tls: {cert: cert.pem, key: key.pem}}\n"
            f"admin: 127.0.0.1:0\nbackends: ['{url}']\naccess_log: off\n"
        )
        with serving(str(folder / "fairlead.yaml")) as served:
            yield Secure(served, authority)


def test_https_is_served_with_a_certificate_that_clients_can_verify(secure: Secure) -> None:
    url = secure.served.listening[0]
    assert url.startswith("https://")
    with urllib.request.urlopen(f"{url}/v1/models", context=secure.trusting(), timeout=10) as answer:
        assert json.load(answer)["data"][0]["id"] == "m"


def test_a_client_that_does_not_trust_it_notices(secure: Secure) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        secure.version_with(ssl.create_default_context())


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_1_2_and_1_3_are_spoken(secure: Secure, version: str) -> None:
    context = secure.trusting()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    assert secure.version_with(context) == version.replace("_", ".")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_older_tls_is_refused_by_the_server(secure: Secure, version: str) -> None:
    context = secure.trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")  # or our own side would not even ask
    with pytest.raises(ssl.SSLError) as refused:
        secure.version_with(context)
    assert refused.value.reason in (
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "UNEXPECTED_EOF_WHILE_READING",  # the event loop closes before the alert is out
        "NO_PROTOCOLS_AVAILABLE",  # an OpenSSL built without them
    )


def test_plain_http_to_the_tls_port_gets_no_answer_and_harms_nobody(secure: Secure) -> None:
    with socket.create_connection(secure.address, timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")
    assert secure.version_with(secure.trusting()) is not None


# --- options -------------------------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    """What it says to options that it does not take."""
    done = CliRunner().invoke(main, ["serve", *arguments])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output


def test_every_wrong_option_is_listed_at_once() -> None:
    output = refused(
        "http://127.0.0.1:1", "ftp://a", "--listen", "here", "--admin", "127.0.0.1:99999", "--policy", "least_waitin",
        "--log-format", "xml",
    )  # fmt: skip
    for words in (
        "backends[1]: expected http:// or https://, got 'ftp://a'",
        "listen: expected HOST:PORT, got 'here'",
        "admin: expected HOST:PORT, got '127.0.0.1:99999'",
        "got 'least_waitin' (did you mean 'least_waiting'?)",
        "access_log.format: expected one of text, json, combined, template, got 'xml'",
    ):
        assert words in output
    assert output.endswith("nothing was started: 5 problems to mend first\n")


@pytest.mark.parametrize(
    ("policy", "nearest"),
    [("round-robin", "round_robin"), ("leastconnections", "least_connections"), ("prefix", "prefix_hash")],
)
def test_an_unknown_policy_gets_the_nearest_name(policy: str, nearest: str) -> None:
    assert f"did you mean '{nearest}'?" in refused("http://127.0.0.1:1", "--policy", policy)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name at least one engine, for example: fairlead serve http://gpu1:8000"),
        (("no-such.yaml",), "no-such.yaml: is not there"),
        (("--config", "no-such.yaml"), "no-such.yaml: is not there"),
        (("--config", "a.yaml", "http://a:1"), "give either --config or targets, not both"),
        (("a.yaml", "http://a:1"), "give either engine URLs or one config file; a.yaml is a file"),
        (("http://a:1", "http://a:1"), "backends[1]"),
        (("http://a:1", "--lissten", "x"), "--listen"),
        (("http://a:1", "--access-log", "no/such/folder/log"), "no/such/folder' is not there"),
        (("http://a:1", "--record", "no/such/folder/t"), "no/such/folder' is not there"),
        (("http://a:1", "--record", "-"), "recording.path: a recording goes to a file, not to standard output"),
        (("http://a:1", "--shadow", "latencies"), "shadow: expected one of expected_completion, "),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments)


def test_problems_of_a_file_and_of_the_command_line_come_together(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("backends: [{url: 'http://a:1', wieght: 2}]\ndrain: 5\n", encoding="utf-8")
    output = refused(str(file), "--policy", "randm")
    assert f"{file}:1: backends[0].wieght: unknown key 'wieght' (did you mean 'weight'?)" in output
    assert f"{file}:2: drain: expected a duration with its unit" in output
    assert "command line: policy" in output and "did you mean 'random'?" in output
    assert output.endswith("nothing was started: 3 problems to mend first\n")
