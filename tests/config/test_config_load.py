"""Loading: which config comes out, and which problems are named where and how."""

from __future__ import annotations

import dataclasses
import os
import socket
import textwrap
from pathlib import Path

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization

from fairlead.config.load import (
    ConfigError,
    _with_whole_paths,
    from_targets,
    load_file,
    parse,
    parse_table,
    read_file,
    read_targets,
    to_plain,
)
from fairlead.config.problems import WARNING, Problem
from fairlead.config.schema import (
    Address,
    Backend,
    Certificate,
    Config,
    Decisions,
    Hedging,
    Listen,
    Policy,
    Recording,
    Shadow,
)

ONE = "backends: [http://a:1]\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "fairlead.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def said(problems: list[Problem]) -> list[str]:
    """Problems without the name of the file."""
    return [str(problem).removeprefix(problem.source).lstrip(":").strip() for problem in problems]


def test_the_smallest_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_file(write(tmp_path, ONE)) == Config(backends=(Backend(url="http://a:1"),))


def test_targets_give_the_same_as_a_file_with_them(tmp_path: Path) -> None:
    file = write(tmp_path, "backends: [http://a:1, b:2]\nlisten: 0.0.0.0:1\n")
    assert from_targets(["http://a:1", "b:2"], {"listen": "0.0.0.0:1", "policy": None}) == load_file(file)


def test_every_form_of_listen_is_read() -> None:
    forms: list[tuple[object, tuple[Listen, ...]]] = [
        ("127.0.0.1:1", (Listen(address=Address("127.0.0.1", 1)),)),
        ({"address": "localhost:1"}, (Listen(address=Address("localhost", 1)),)),
        (["[::1]:1", {"address": "a:2"}], (Listen(address=Address("::1", 1)), Listen(address=Address("a", 2)))),
    ]
    for raw, expected in forms:
        config, problems = parse({"listen": raw, "backends": ["a:1"]}, "x")
        assert problems == []
        assert config is not None and config.listen == expected


def test_a_backend_url_is_brought_into_one_spelling_and_names_the_backend() -> None:
    config = from_targets(["HTTP://GPU1:80/", "gpu2:8000", "https://[::1]/base/"])
    assert [(backend.url, backend.name) for backend in config.backends] == [
        ("http://gpu1", "gpu1:80"),
        ("http://gpu2:8000", "gpu2:8000"),
        ("https://[::1]/base", "[::1]:443/base"),
    ]


def test_an_address_writes_itself_as_it_is_read() -> None:
    assert [str(Address("::1", 1)), str(Address("a", 2))] == ["[::1]:1", "a:2"]


def test_on_is_a_key_and_off_is_false(tmp_path: Path) -> None:
    config = load_file(write(tmp_path, ONE + "retries: {on: [502, connect]}\naccess_log: off\n"))
    assert config.retries.on == ("502", "connect")
    assert not config.access_log.enabled


def test_an_empty_group_means_its_defaults(tmp_path: Path) -> None:
    assert load_file(write(tmp_path, ONE + "timeouts:\n  # connect: 5s\n")).timeouts == Config().timeouts


def test_anchors_and_merge_keys_share_options(tmp_path: Path) -> None:
    file = write(tmp_path, "backends:\n  - &b {url: 'a:1', weight: 2}\n  - {<<: *b, url: 'b:1'}\n")
    assert [(backend.url, backend.weight) for backend in load_file(file).backends] == [
        ("http://a:1", 2.0),
        ("http://b:1", 2.0),
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
        polcy: random
        listen: {address: "127.0.0.1:1", tls: {cert: nowhere.pem, key: nowhere.key}}
        backends:
          - url: ftp://a
            wieght: 2
          - http://b:1
          - http://b:1
        timeouts:
          connect: 5
        """,
    )
    config, problems = read_file(file)
    assert config is None
    assert [(problem.line, problem.path) for problem in problems] == [
        (1, "polcy"),
        (2, "listen.tls.cert"),
        (2, "listen.tls.key"),
        (4, "backends[0].url"),
        (5, "backends[0].wieght"),
        (7, "backends[2].url"),
        (9, "timeouts.connect"),
    ]
    with pytest.raises(ConfigError) as caught:
        load_file(file)
    assert list(caught.value.problems) == problems
    assert str(caught.value).count("\n") == 6


def test_no_backend_at_all_is_a_problem() -> None:
    empties: list[dict[str, object]] = [{}, {"backends": []}, {"backends": None}]
    for obj in empties:
        config, problems = parse(obj, "f")
        assert config is None
        assert [problem.path for problem in problems] == ["backends"]
    assert read_targets([])[0] is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("keepalive: {timeout: 5s}", "keepalive.timeout"),
        ("admin: 0.0.0.0:9900", "admin"),
        ("backends: [http://a:1/v1]", "backends[0].url"),
    ],
)
def test_what_will_probably_hurt_is_a_warning_and_the_config_is_still_used(text: str, path: str) -> None:
    config, problems = parse({"backends": ["http://a:1"], **yaml.safe_load(text)}, "f")
    assert config is not None
    assert [(problem.severity, problem.path) for problem in problems] == [(WARNING, path)]
    assert str(problems[0]).startswith(f"f: warning: {path}: ")


def test_the_command_line_wins_over_the_file_and_its_problems_say_so(tmp_path: Path) -> None:
    file = write(tmp_path, ONE + "policy: {name: session, ttl: 5s}\naccess_log: {path: '-'}\n")
    config = load_file(file, {"policy": "random", "access_log.format": "json", "listen": None})
    assert (config.policy, config.access_log.format) == (Policy(name="random"), "json")
    off = load_file(write(tmp_path, ONE + "access_log: off\n"), {"access_log.format": "json"}).access_log
    assert (off.enabled, off.format) == (False, "json")
    file = write(tmp_path, ONE)
    _, problems = read_file(file, {"access_log.format": "jsn", "listen": "x"})
    assert [(problem.source, problem.path, problem.line) for problem in problems] == [
        ("command line", "listen", None),
        ("command line", "access_log.format", None),
    ]
    _, problems = read_file(file, {"access_log.format": "template"})  # a good word, but the file has no template
    assert [(problem.source, problem.path, problem.line) for problem in problems] == [
        ("command line", "access_log.format", None)
    ]


def test_a_missing_file_a_directory_and_impossible_names_get_one_clear_sentence(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "no.yaml", "is not there"), (tmp_path, "is a directory, not a file")):
        assert said(read_file(path)[1]) == [expected]
    assert len(read_file("a\0b")[1]) == len(read_file("x" * 5000)[1]) == 1


def test_an_unreadable_file_is_said_to_be_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, ONE)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may read all
    assert said(read_file(file)[1]) == ["may not be read by this user"]


def test_aliases_cannot_blow_a_small_file_up(tmp_path: Path) -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    config, problems = read_file(write(tmp_path, "\n".join(layers) + "\n"))
    assert config is None
    assert sum("aliases filled in" in problem.message for problem in problems) == 1
    loop = write(tmp_path, "backends: &loop [*loop]\n")
    assert read_file(loop)[0] is None


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + ONE.encode())
    assert load_file(file).backends[0].url == "http://a:1"


def tls_files(folder: Path) -> None:
    authority = trustme.CA()
    for name in ("one", "two"):
        certificate = authority.issue_cert(f"{name}.test")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")


def tls_config(folder: Path, cert: str, key: str) -> Path:
    return write(folder, f"{ONE}listen: {{address: '127.0.0.1:1', tls: {{cert: {cert}, key: {key}}}}}\n")


def test_certificate_and_key_are_found_beside_the_config(tmp_path: Path) -> None:
    tls_files(tmp_path)
    (listen,) = load_file(tls_config(tmp_path, "one.pem", "one.key")).listen
    assert listen.tls is not None
    assert (listen.tls.cert, listen.tls.key) == (str(tmp_path / "one.pem"), str(tmp_path / "one.key"))


def test_certificate_and_key_must_be_there_and_belong_together(tmp_path: Path) -> None:
    tls_files(tmp_path)
    (tmp_path / "junk.pem").write_text("junk")
    key = serialization.load_pem_private_key((tmp_path / "one.key").read_bytes(), None)
    (tmp_path / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for cert, key_name, path, message in (
        ("no.pem", "one.key", "listen.tls.cert", f"'{tmp_path / 'no.pem'}' is not there"),
        ("one.pem", ".", "listen.tls.key", f"'{tmp_path}' is a directory, not a file"),
        ("one.pem", "two.key", "listen.tls", "the key does not belong to the certificate"),
        ("junk.pem", "one.key", "listen.tls", "certificate and key could not be read as PEM files"),
        ("one.pem", "locked.key", "listen.tls.key", "is protected by a passphrase"),
    ):
        config, problems = read_file(tls_config(tmp_path, cert, key_name))
        assert config is None
        assert [(problem.path, problem.message) for problem in problems] == [(path, message)]


def test_every_file_is_meant_from_where_the_config_lies_and_nothing_else_changes(tmp_path: Path) -> None:
    text = """
        listen:
          - address: 127.0.0.1:1
            tls: {cert: c.pem, key: k.pem, more: [{cert: d.pem, key: l.pem}], min_version: 1.3, client_ca: ca.pem,
                  client_certs: optional}
            http2: false
            proxy_protocol: true
          - 127.0.0.1:2
        trusted_proxies: 10.0.0.0/8
        backends:
          - {url: "https://a", tls: {ca: /etc/ca.pem, cert: c.pem, key: k.pem, server_name: b}, headers: "X-A: b"}
          - {url: "http://a:1", backup: true, health_path: /ok}
        backend_tls: {ca: ca.pem, verify: false}
        access_log: {format: template, template: $status, path: a.log}
    """
    file = write(tmp_path, text)
    read, _ = parse(yaml.safe_load(textwrap.dedent(text)), "f")
    assert read is not None
    found = _with_whole_paths(read, file.parent)
    here, listen, backend = tmp_path, read.listen[0], read.backends[0]
    assert listen.tls is not None and backend.tls is not None
    more = (Certificate(cert=f"{here}/d.pem", key=f"{here}/l.pem"),)
    tls = dataclasses.replace(
        listen.tls, cert=f"{here}/c.pem", key=f"{here}/k.pem", more=more, client_ca=f"{here}/ca.pem"
    )
    backend_tls = dataclasses.replace(backend.tls, cert=f"{here}/c.pem", key=f"{here}/k.pem")
    assert found == dataclasses.replace(
        read,
        listen=(dataclasses.replace(listen, tls=tls), read.listen[1]),
        backends=(dataclasses.replace(backend, tls=backend_tls), read.backends[1]),
        backend_tls=dataclasses.replace(read.backend_tls, ca=f"{here}/ca.pem"),
        access_log=dataclasses.replace(read.access_log, path=f"{here}/a.log"),
    )


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("listen: {address: 'a:1', tls: {cert: one.pem, key: one.key, more: {cert: no.pem, key: two.key}}}",
         "listen.tls.more.cert", "'{}/no.pem' is not there"),
        ("listen: {address: 'a:1', tls: {cert: one.pem, key: one.key, more: [{cert: two.pem, key: two.key}, "
         "{cert: one.pem, key: two.key}]}}", "listen.tls.more[1]", "the key does not belong to the certificate"),
        ("listen: [{address: 'a:1', tls: {cert: one.pem, key: one.key, client_certs: required, client_ca: no.pem}}]",
         "listen[0].tls.client_ca", "'{}/no.pem' is not there"),
        ("listen: {address: 'a:1', tls: {cert: one.pem, key: one.key, client_certs: required, client_ca: one.key}}",
         "listen.tls.client_ca", "'{}/one.key' holds no certificate in PEM form"),
        ("backend_tls: {ca: no.pem}", "backend_tls.ca", "'{}/no.pem' is not there"),
        ("backend_tls: {ca: empty.pem}", "backend_tls.ca", "'{}/empty.pem' holds no certificate in PEM form"),
        ("backend_tls: {ca: .}", "backend_tls.ca", "'{}' is a directory, not a file"),
        ("backend_tls: {cert: one.pem, key: no.key}", "backend_tls.key", "'{}/no.key' is not there"),
        ("backend_tls: {cert: one.pem, key: two.key}", "backend_tls", "the key does not belong to the certificate"),
        ("backends: [{url: 'https://a', tls: {ca: no.pem}}]", "backends[0].tls.ca", "'{}/no.pem' is not there"),
        ("backends: {url: 'https://a', tls: {ca: no.pem}}", "backends.tls.ca", "'{}/no.pem' is not there"),
        ("backends: ['b:1', {url: 'https://a', tls: {cert: two.pem, key: one.key}}]", "backends[1].tls",
         "the key does not belong to the certificate"),
        ("listen: 'unix:{}/one.pem'", "listen", "'{}/one.pem' is there, and is no socket"),
        ("listen: ['unix:{}/no/x', 'a:1']", "listen[0]", "the directory '{}/no' is not there"),
        (f"access_log: {{path: {'x' * 300}/a}}", "access_log.path", f"the directory '{{}}/{'x' * 300}' is not there"),
    ],
)  # fmt: skip
def test_every_file_must_be_there_and_be_what_it_is_named_for(
    tmp_path: Path, text: str, path: str, message: str
) -> None:
    tls_files(tmp_path)
    (tmp_path / "empty.pem").write_text("")
    file = write(tmp_path, text.replace("{}", str(tmp_path)) + ("" if "backends:" in text else f"\n{ONE}"))
    config, problems = read_file(file)
    assert config is None
    assert [(problem.path, problem.message) for problem in problems] == [(path, message.format(tmp_path))]


def test_certificates_of_all_kinds_are_taken_when_they_are_good(tmp_path: Path) -> None:
    tls_files(tmp_path)
    file = write(
        tmp_path,
        """\
        listen:
          address: a:1
          tls: {cert: one.pem, key: one.key, more: {cert: two.pem, key: two.key}, client_ca: one.pem,
                client_certs: required}
        backend_tls: {ca: one.pem, cert: two.pem, key: two.key}
        backends: {url: "https://a", tls: {ca: two.pem, cert: one.pem, key: one.key}}
        """,
    )
    assert read_file(file)[1] == []


def test_a_socket_that_is_there_already_is_no_problem(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{tmp_path}/x.sock")
    assert read_file(write(tmp_path, ONE + f"listen: unix:{tmp_path}/x.sock"))[1] == []


def test_the_folder_of_the_access_log_must_be_there(tmp_path: Path) -> None:
    assert load_file(write(tmp_path, ONE + "access_log: {path: a.log}")).access_log.path == str(tmp_path / "a.log")
    for path, expected in (
        ("no/a.log", f"the directory '{tmp_path / 'no'}' is not there"),
        (".", f"'{tmp_path}' is a directory"),
    ):
        _, problems = read_file(write(tmp_path, ONE + f"access_log: {{path: {path}}}"))
        assert [problem.message for problem in problems] == [expected]


def test_a_recording_is_a_bare_path_or_a_table_and_lies_beside_the_file(tmp_path: Path) -> None:
    for written, expected in (
        ("a.jsonl", Recording(path=str(tmp_path / "a.jsonl"))),
        ("{path: /x.jsonl, max_bytes: 1MiB, keep: 2}", Recording(path="/x.jsonl", max_bytes=1024 * 1024, keep=2)),
    ):
        assert load_file(write(tmp_path, ONE + f"recording: {written}")).recording == expected
    assert load_file(write(tmp_path, ONE + "recording: null")).recording is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/a.jsonl", "the directory '{}/no' is not there"),
        (".", "'{}' is a directory"),
        ("'-'", "a recording goes to a file, not to standard output"),
    ],
)
def test_a_recording_needs_a_file_in_a_folder_that_is_there(tmp_path: Path, path: str, message: str) -> None:
    _, problems = read_file(write(tmp_path, ONE + f"recording: {path}"))
    assert [(p.path, p.message) for p in problems] == [("recording.path", message.format(tmp_path))]


def test_a_log_of_decisions_is_a_file_as_a_recording_is(tmp_path: Path) -> None:
    loaded = load_file(write(tmp_path, ONE + "decisions: d.jsonl"))
    assert loaded.decisions == Decisions(path=str(tmp_path / "d.jsonl"))
    for path, message in (
        ("no/d.jsonl", f"the directory '{tmp_path}/no' is not there"),
        ("'-'", "decisions go to a file, not to standard output"),
    ):
        _, problems = read_file(write(tmp_path, ONE + f"decisions: {path}"))
        assert [(p.path, p.message) for p in problems] == [("decisions.path", message)]


def test_a_shadow_is_a_name_or_a_table_like_a_policy(tmp_path: Path) -> None:
    for written, expected in (
        ("round_robin", Shadow(name="round_robin")),
        ("{throughput: 0.2}", Shadow(throughput=0.2)),
        ("{name: session, ttl: 1h}", Shadow(name="session", ttl=3600.0)),
    ):
        config = load_file(write(tmp_path, ONE + f"policy: random\nshadow: {written}"))
        assert (config.policy.name, config.shadow) == ("random", expected)
    assert load_file(write(tmp_path, ONE)).shadow is None


def test_one_table_can_be_read_by_itself() -> None:
    assert parse_table(Backend, {"url": "a:1", "weight": 2}, "request body") == (
        Backend(url="http://a:1", weight=2.0),
        [],
    )
    backend, problems = parse_table(Backend, {"url": "a:1", "weight": -2}, "request body")
    assert backend is None
    assert [problem.path for problem in problems] == ["weight"]


def test_what_is_written_back_reads_as_the_same_config(tmp_path: Path) -> None:
    config = load_file(
        write(
            tmp_path,
            """\
            listen: ["[::1]:8443", localhost:0]
            policy: {name: session, cookie: c, header: null, ttl: 90s}
            backends: [{url: "a:1", weight: 0.5, models: m, engine: sglang}, "https://b/x"]
            retries: {on: [], budget: 12.5%}
            drain: 0
            """,
        )
    )
    assert parse(to_plain(config), "again") == (config, [])


def test_hedging_is_off_and_its_delay_is_a_word_or_a_time() -> None:
    forms: list[tuple[object, Hedging | None]] = [
        (None, None),
        ("auto", Hedging()),
        ("300ms", Hedging(delay=0.3)),
        ({}, Hedging(delay="auto", budget=0.05)),
        ({"delay": "2s", "budget": "1%"}, Hedging(delay=2.0, budget=0.01)),
    ]
    for raw, expected in forms:
        config, problems = parse({"hedging": raw, "backends": ["a:1"]}, "x")
        assert config is not None, problems
        assert config.hedging == expected
        assert parse(to_plain(config), "x")[0] == config
    config, problems = parse({"hedging": "sometimes", "backends": ["a:1"]}, "x")
    assert config is None
    assert said(problems)[0].startswith("hedging: expected auto or a duration")
    config, problems = parse({"hedging": {"delay": "0s"}, "backends": ["a:1"]}, "x")
    assert said(problems) == ["hedging.delay: expected a duration from 1ms to 1h, got '0s'"]
