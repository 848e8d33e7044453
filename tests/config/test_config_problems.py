"""What is said about bad input: for each kind of mistake the exact place, message and next step."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from fairlead.config.load import parse, read_file
from fairlead.config.problems import Problem

ONE = "backends: [http://a:1]\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "fairlead.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def said(problems: list[Problem]) -> list[str]:
    """Problems without the name of the file."""
    return [str(problem).removeprefix(problem.source).lstrip(":").strip() for problem in problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: 8080", "1: listen: expected HOST:PORT, got 8080 (write 127.0.0.1:8080 or 0.0.0.0:8080)"),
        ("listen: ':8080'", "1: listen: expected HOST:PORT, got ':8080' "
         "(for all interfaces write 0.0.0.0:8080 or [::]:8080)"),
        ("listen: ::1:8080", "1: listen: expected HOST:PORT, got '::1:8080' "
         "(an IPv6 host stands in brackets, such as [::1]:8080)"),
        ("listen: localhost", "1: listen: expected HOST:PORT, got 'localhost' (write localhost:8080)"),
        ("listen: /run/x.sock", "1: listen: expected HOST:PORT, got '/run/x.sock' "
         "(for a Unix socket write unix:/run/x.sock)"),
        ("listen: unix:x.sock", "1: listen: expected unix: and the absolute path of a socket file, "
         "got 'unix:x.sock' (such as unix:/run/fairlead.sock)"),
        ("listen: unix:/run/", "1: listen: expected unix: and the absolute path of a socket file, "
         "got 'unix:/run/' (such as unix:/run/fairlead.sock)"),
        ("listen: 'unix:8080'", "1: listen: expected unix: and the absolute path of a socket file, "
         "got 'unix:8080' (such as unix:/run/fairlead.sock)"),
        ("listen: unix://run/./a/../x.sock", "1: listen: expected a socket path without //, . and .., "
         "got 'unix://run/./a/../x.sock' (write unix:/run/x.sock)"),
        (f"listen: unix:/{'x' * 107}", "1: listen: expected a socket path of at most 107 bytes (the system's limit), "
         f"got 'unix:/{'x' * 74}...'"),
        ("listen: [unix:/tmp, 'a:1']", "1: listen[0]: '/tmp' is a directory (name a file in it)"),
        ("listen: unix:/nowhere/x.sock", "1: listen: the directory '/nowhere' is not there (create it)"),
        ("admin: unix:/tmp/x.sock", "1: admin: expected HOST:PORT, got 'unix:/tmp/x.sock' (the admin API is for "
         "browsers and Prometheus, which know no Unix sockets; write 127.0.0.1:9900)"),
        ("listen: a:99999", "1: listen: expected HOST:PORT, got 'a:99999' (a port is at most 65535)"),
        ("listen: 1.2.3:80", "1: listen: expected HOST:PORT with a valid IPv4 address, got '1.2.3:80'"),
        ("listen: []", "1: listen: expected at least one, got an empty list (where clients are served)"),
        ("listen: {http3: true, address: 'a:1'}", "1: listen.http3: unknown key 'http3' "
         "(did you mean 'http2'?)"),
        ("listen: {quic: true, address: 'a:1'}", "1: listen.quic: unknown key 'quic' "
         "(known here: address, tls, http2, proxy_protocol, half_close)"),
        ("backend_tls: {server_name: 'a b'}", "1: backend_tls.server_name: expected a name of letters, digits "
         "and dashes, such as x-session-id, got 'a b'"),
        ("headers: {set: {X-A: b}}", "1: headers.set: expected a header as `Name: value`, got a table "
         "(put it in quotes)"),
        ("headers: {set: [X-A: b]}", "1: headers.set[0]: expected a header as `Name: value`, got a table "
         "(put it in quotes)"),
        ("headers: {set: 'X A: b'}", "1: headers.set: expected a header as `Name: value`, got other text"),
        ("headers: {set: X-A}", "1: headers.set: expected a header as `Name: value`, got other text"),
        ("headers: {set: 5}", "1: headers.set: expected a header as `Name: value`, got 5"),
        ("headers: {set: 'X-A: \u00e4'}", "1: headers.set: expected a header as `Name: value` of printable ASCII, "
         "at most 1000 characters, got 'X-A: ...'"),
        ("headers: {set: \"X-A: b\\r\\nX-B: c\"}", "1: headers.set: expected a header as `Name: value` of "
         "printable ASCII, at most 1000 characters, got 'X-A: ...'"),
        (f"headers: {{set: 'X-A: {'b' * 996}'}}", "1: headers.set: expected a header as `Name: value` of "
         "printable ASCII, at most 1000 characters, got 'X-A: ...'"),
        ("headers: {set: 'Content-Length: 5'}", "1: headers.set: expected a header that is not Fairlead's own "
         "to write, got 'Content-Length: ...' (leave Content-Length away)"),
        ("headers: {set: ['X-A: b', 'X-A: b']}", "1: headers.set[1]: 'X-A: ...' is listed twice "
         "(keep one of them)"),
        ("headers: {remove: [Connection]}", "1: headers.remove[0]: expected a header that is not Fairlead's own "
         "to write, got 'Connection' (leave Connection away)"),
        ("headers: {remove: 'X A'}", "1: headers.remove: expected a name of letters, digits and dashes, "
         "such as x-session-id, got 'X A'"),
        ("headers: {remove: [X-A, x-a]}", "1: headers.remove[1]: 'x-a' is listed twice (keep one of them)"),
        ("trusted_proxies: 10.0.0.1/8", "1: trusted_proxies: expected an address or a network such as 10.0.0.0/8, "
         "or unix, got '10.0.0.1/8' (write 10.0.0.0/8, or 10.0.0.1 for the one)"),
        ("trusted_proxies: [10.0.0.0/33]", "1: trusted_proxies[0]: expected an address or a network such as "
         "10.0.0.0/8, or unix, got '10.0.0.0/33'"),
        ("trusted_proxies: [proxy.local]", "1: trusted_proxies[0]: expected an address or a network such as "
         "10.0.0.0/8, or unix, got 'proxy.local'"),
        ("trusted_proxies: [10]", "1: trusted_proxies[0]: expected an address or a network such as 10.0.0.0/8, "
         "or unix, got 10"),
        ("trusted_proxies: ['fe80::1%eth0']", "1: trusted_proxies[0]: expected an address or a network such as "
         "10.0.0.0/8, or unix, got 'fe80::1%eth0' (write fe80::1)"),
        ("trusted_proxies: [10.0.0.1, 10.0.0.1/32]", "1: trusted_proxies[1]: '10.0.0.1/32' is listed twice "
         "(keep one of them)"),
        ("routes: {path: v1, backends: 'a:1'}", "1: routes.path: expected a path that begins with /, got 'v1' "
         "(write /v1)"),
        ("routes: [{path: /v1/, backends: []}]", "1: routes[0].backends: expected at least one, got an empty list "
         "(names of backends)"),
        ("routes: [{path: /v1/}]", "1: routes[0].backends: required, but not there (names of backends)"),
        ("routes: [/v1/]", "1: routes[0]: expected a table of options, got '/v1/' "
         "(known here: path, backends, strip)"),
        ("limits: {streams: 0}", "1: limits.streams: expected a whole number from 1 to 10000, got 0"),
        ("limits: {body_memory: 1KiB}", "1: limits.body_memory: expected a size from 1MiB to 1048576GiB, got '1KiB'"),
        ("access_log: {format: combned}", "1: access_log.format: expected one of text, json, combined, template, "
         "got 'combned' (did you mean 'combined'?)"),
        ("listen: ['a:1', 'a:1']", "1: listen[1]: a:1 is already listen[0] (choose another port)"),
        ("listen: ['0.0.0.0:1', 'a:1']", "1: listen[1]: a:1 overlaps with 0.0.0.0:1 of listen[0] "
         "(choose another port)"),
        ("listen: 127.0.0.1:9900", "1: admin: 127.0.0.1:9900 is already listen (choose another port)"),
        ("listen: {tls: {cert: x}, address: 'a:1'}", "1: listen.tls.key: required, but not there "
         "(its private key in PEM form, without a passphrase)"),
        ("policy: least_connection", "1: policy: expected one of expected_completion, prefix_cache, latency, "
         "least_pending_tokens, least_waiting, least_connections, power_of_two, prefix_hash, session, round_robin, "
         "random, got 'least_connection' (did you mean 'least_connections'?)"),
        ("policy: {name: session, load_factor: 2}", "1: policy.load_factor: 'load_factor' belongs to 'prefix_hash', "
         "and the name here is 'session' (leave it away, or set name: prefix_hash)"),
        ("policy: {name: session, header: null}", "1: policy: the session policy needs something that names "
         "the session (set header, cookie or body_field)"),
        ("policy: {name: session, cookie: c}\nshadow: session", "2: shadow: a session policy and its session "
         "shadow must find the session's name in the same place (give both the same header, cookie and body_field)"),
        ("shadow: {name: session, header: null}", "1: shadow: the session policy needs something that names "
         "the session (set header, cookie or body_field)"),
        ("shadow: fastest", "1: shadow: expected one of expected_completion, prefix_cache, latency, "
         "least_pending_tokens, least_waiting, least_connections, power_of_two, prefix_hash, session, round_robin, "
         "random, got 'fastest'"),
        ("policy: {throughput: 2}", "1: policy.throughput: expected a number from 0 to 1, got 2"),
        ("recording: {keep: 3}", "1: recording.path: required, but not there (a file, relative to this one)"),
        ("recording: off", "1: recording: expected text, got false"),
        ("policy: {name: prefix_hash, load_factor: 0.5}", "1: policy.load_factor: expected a number "
         "from 1 to 10, got 0.5"),
        ("timeouts: {connect: 5}", "1: timeouts.connect: expected a duration with its unit, got 5 "
         "(write 5s or 5ms)"),
        ("timeouts: {connect: 11m}", "1: timeouts.connect: expected a duration from 1ms to 10m, got '11m'"),
        ("timeouts: {connect: 0}", "1: timeouts.connect: expected a duration from 1ms to 10m, got 0"),
        ("timeouts: {connect: null}", "1: timeouts.connect: expected a duration such as 5s or 500ms, got null "
         "(leave the key out to get the default)"),
        ("timeouts: {idle: .nan}", "1: timeouts.idle: expected a number, got '.nan' (write a plain number)"),
        ("timeouts: 5s", "1: timeouts: expected a table of options, got '5s' (known here: connect, "
         "first_byte, idle, send, handshake, client_header, client_body, client_idle, client_write)"),
        ("\n\ntimeout: {connect: 5s}", "3: timeout: unknown key 'timeout' (did you mean 'timeouts'?)"),
        ("connect: 5s", "1: connect: unknown key 'connect' ('connect' belongs under 'timeouts')"),
        ("health: {backends: 1}", "1: health.backends: unknown key 'backends' "
         "('backends' belongs at the top)"),
        ("retries: {on: [conect]}", "1: retries.on[0]: expected one of connect, timeout, 429, 500, 502, 503, "
         "504, got 'conect' (did you mean 'connect'?)"),
        ("retries: {on: [502, '502']}", "1: retries.on[1]: '502' is listed twice (keep one of them)"),
        ("retries: {attempts: 6}", "1: retries.attempts: expected a whole number from 0 to 5, got 6"),
        ("retries: {attempts: '2'}", "1: retries.attempts: expected a whole number, got '2' "
         "(write 2 without quotes)"),
        ("retries: {attempts: yes}", "1: retries.attempts: expected a whole number, got true"),
        ("retries: {budget: 20}", "1: retries.budget: expected a share such as 20% or 0.2, got 20 "
         "(write 20%)"),
        ("health: {path: health}", "1: health.path: expected auto or a path that begins with /, got 'health' "
         "(write /health)"),
        ("limits: {body: 33554432}", "1: limits.body: expected a size with its unit, got 33554432 "
         "(write 33554432MiB or 33554432KiB)"),
        ("limits: {body: 32m}", "1: limits.body: expected a size such as 32MiB or 64KiB, got '32m' "
         "(write 32MiB)"),
        ("access_log: {enabled: 'true'}", "1: access_log.enabled: expected true or false, got 'true' "
         "(write it without quotes)"),
        ("drain: 2d", "1: drain: expected a duration from 1ms to 1d, or 0, got '2d'"),
        ("drain: 1s\ndrain: 2s", "2: drain: 'drain' is given twice; the first is on line 1 "
         "(keep one of them)"),
        ("drain: !!python/object:os.system 5s", "1: drain: the tag "
         "'tag:yaml.org,2002:python/object:os.system' is not supported (remove it)"),
        ("alerts: {share: {threshold: 0%}}", "1: alerts.share.threshold: expected a share from 1% to 100%, "
         "got '0%'"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named_with_its_place_and_the_next_step(tmp_path: Path, text: str, expected: str) -> None:
    config, problems = read_file(write(tmp_path, f"{text}\n{ONE}"))
    assert config is None
    assert said(problems) == [expected]


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("ftp://a", "backends[1]: expected http:// or https://, got 'ftp://a'"),
        ("gpu1", "backends[1]: expected http:// or https://, got 'gpu1' (write http://gpu1:8000)"),
        ({"url": 5}, "backends[1].url: expected http:// or https://, got 5"),
        ({"weight": 1}, "backends[1].url: required, but not there "
         "(base URL, http:// or https://; HOST:PORT alone means http://; unix:/PATH for a socket file)"),
        ("/run/b.sock", "backends[1]: expected http:// or https://, got '/run/b.sock' "
         "(for a Unix socket write unix:/run/b.sock)"),
        ("http://unix:/run/b.sock:/v1/", "backends[1]: expected http:// or https://, "
         "got 'http://unix:/run/b.sock:/v1/' (for a Unix socket write unix:/run/b.sock)"),
        ("unix:b.sock", "backends[1]: expected unix: and the absolute path of a socket file, got 'unix:b.sock' "
         "(such as unix:/run/fairlead.sock)"),
        ({"url": "b:1", "metrics_url": "unix:/x"}, "backends[1].metrics_url: expected http:// or https://, "
         "got 'unix:/x'"),
        ({"url": "b:1", "headers": "Authorization Bearer secret"}, "backends[1].headers: expected a header as "
         "`Name: value`, got other text"),
        ({"url": "b:1", "headers": ["Host: secret"]}, "backends[1].headers[0]: expected a header that is not "
         "Fairlead's own to write, got 'Host: ...' (leave Host away)"),
        ({"url": "b:1", "backup": "yes"}, "backends[1].backup: expected true or false, got 'yes'"),
        ({"url": "https://b:1", "tls": {"verfy": False}}, "backends[1].tls.verfy: unknown key 'verfy' "
         "(did you mean 'verify'?)"),
        ("http://b:1?key=secret", "backends[1]: expected a URL without ? and #, got 'http://b:1?...' "
         "(leave everything from the ? or # on away)"),
        ("http://me:secret@b:1", "backends[1]: expected a URL without a user name, got 'http://...@b:1' "
         "(clients send their own keys; they are passed on)"),
        ("http://b:0", "backends[1]: expected http://HOST:PORT with a port from 1 to 65535, got 'http://b:0'"),
        ("http://b c:1", "backends[1]: expected http://HOST:PORT with a host name of letters, digits, dots "
         "and dashes, got 'http://b c:1'"),
        ("http://[::g]:1", "backends[1]: expected http://HOST:PORT with a valid IPv6 address, "
         "got 'http://[::g]:1'"),
        ("http://b:1/a b", "backends[1]: expected a URL path of plain letters, digits and signs, "
         "got 'http://b:1/a b'"),
        ({"url": "b:1", "wieght": 2}, "backends[1].wieght: unknown key 'wieght' (did you mean 'weight'?)"),
        ({"url": "b:1", "max-connections": 2}, "backends[1].'max-connections': unknown key 'max-connections' "
         "(did you mean 'max_connections'?)"),
        ({"url": "b:1", "max_fails": 2}, "backends[1].max_fails: unknown key 'max_fails' "
         "('max_fails' belongs under 'health')"),
        ({"url": "b:1", 7: 2}, "backends[1].'7': unknown key '7' (known here: url, name, weight, "
         "max_connections, backup, down, engine, models, metrics_url, health_path, tls, headers)"),
        ({"url": "b:1", "weight": 0}, "backends[1].weight: expected a number from 0.001 to 1000, got 0"),
        ({"url": "b:1", "weight": "2"}, "backends[1].weight: expected a number, got '2' "
         "(write 2 without quotes)"),
        ({"url": "b:1", "weight": 10**400}, "backends[1].weight: expected a number from 0.001 to 1000, "
         "got 1" + "0" * 79 + "..."),
        ({"url": "b:1", "engine": "vlm"}, "backends[1].engine: expected one of auto, vllm, sglang, trtllm, "
         "triton, triton-openai, tgi, llamacpp, lmdeploy, ollama, generic, got 'vlm' (did you mean 'vllm'?)"),
        ({"url": "b:1", "models": []}, "backends[1].models: expected at least one, got an empty list "
         "(models it serves)"),
        ({"url": "b:1", "models": [3]}, "backends[1].models[0]: expected text, got 3 (put it in quotes)"),
        ({"url": "b:1", "models": ["m", "m"]}, "backends[1].models[1]: 'm' is listed twice (keep one of them)"),
        ({"url": "b:1", "name": "a:1"}, "backends[1].name: the name 'a:1' is already that of backends[0] "
         "(give each backend its own name)"),
        ({"url": "b:1", "name": "x\n"}, "backends[1].name: expected text without control characters or "
         r"blanks around it, got 'x\n'"),
        ("http://A:1/", "backends[1].url: 'http://a:1' is already backends[0] "
         "(remove one of them; to give it more work, raise its weight)"),
        ({"url": "b:1", "health_path": "ok"}, "backends[1].health_path: expected a path that begins with /, "
         "got 'ok' (write /ok)"),
        (["b:1"], "backends[1]: expected a table of options, got a list (known here: url, name, weight, "
         "max_connections, backup, down, engine, models, metrics_url, health_path, tls, headers)"),
        (None, "backends[1]: expected http:// or https://, got null"),
    ],
)  # fmt: skip
def test_a_bad_backend_is_named_with_its_place_and_the_next_step(backend: object, expected: str) -> None:
    config, problems = parse({"backends": ["http://a:1", backend]}, "f")
    assert config is None
    assert said(problems) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty (it needs at least backends: [http://HOST:PORT])"),
        (b"# only a comment\n", "is empty (it needs at least backends: [http://HOST:PORT])"),
        (b"- a\n", "1: expected options such as 'backends:' at the top, got something else"),
        (b"just text", "1: expected options such as 'backends:' at the top, got something else"),
        (b"a: 1\nb: \xff\n", "2: is not UTF-8 text (save it as UTF-8)"),
        (b"a: 1\nb: \x00\n", "2: holds a character that YAML does not allow (remove it)"),
        (b"a:\n\t- b\n", "2: is not valid YAML: while scanning for the next token, found character '\\t' "
         "that cannot start any token (indent with blanks, not tabs)"),
        (b"a: 1\n---\nb: 2\n", "2: is not valid YAML: expected a single document in the stream, but found "
         "another document (keep one document; remove the line ---)"),
        (b"a: b: c\n", "1: is not valid YAML: mapping values are not allowed here "
         "(check the indentation, and put text with ': ' in it in quotes)"),
        (b"a: *nobody\n", "1: is not valid YAML: found undefined alias 'nobody'"),
        (b"a: " + b"[" * 500, "1: is not valid YAML: nested more than 20 deep"),
        (b"x" * (1024 * 1024 + 1), "is larger than 1 MiB, which no configuration is (is it the right file?)"),
        (b"[a]: 1\nbackends: [a:1]\n", "1: expected a plain key, got a list or table"),
        (b"<<: 5\nbackends: [a:1]\n", "1: expected a table after <<"),
        (b"a: [&x q, " + b"*x, " * 101 + b"]", "1: is not valid YAML: too many aliases"),
    ],
)  # fmt: skip
def test_an_unreadable_file_gets_one_clear_sentence(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    config, problems = read_file(file)
    assert config is None
    assert said(problems) == [expected]
