"""`fairlead export nginx`: the real nginx takes what is written, and importing it gives the same options again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nginx_checking import SAMPLES, complaints, config_of, imported, make_certificates

from fairlead.config.load import parse, to_plain
from fairlead.config.schema import Config
from fairlead.control.exports.nginx import render
from fairlead.nginx.convert import import_nginx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nginx")
    make_certificates(made)
    return made


def config(data: dict[str, Any]) -> Config:
    made, problems = parse(data, "test")
    assert made is not None, "\n".join(map(str, problems))
    return made


SAMPLE_NAMES = sorted(path.name for path in SAMPLES.glob("*.conf"))


@pytest.mark.parametrize("name", SAMPLE_NAMES)
def test_a_whole_nginx_conf_is_imported_and_exported_again(folder: Path, name: str) -> None:
    assert len(SAMPLE_NAMES) >= 5
    (folder / name).write_text((SAMPLES / name).read_text("utf-8"), "utf-8")
    made = config_of(import_nginx(str(folder / name), keep_policy=True))
    text = render(made)
    assert complaints(text, folder) == ""
    again = config_of(imported(text, folder, keep_policy=True))
    assert sayable(again, made) == sayable(made)


def sayable(config: Config, reference: Config | None = None) -> Any:
    """What both sides can say, in plain data; `reference` is the configuration that was exported."""
    plain: Any = to_plain(config)
    for name in ("admin", "shadow", "metrics", "recording", "alerts"):
        del plain[name]
    for name in ("path", "interval", "timeout", "rise", "fall"):
        del plain["health"][name]
    for group, names in {"limits": ("headers", "connections", "body_memory"), "timeouts": ("handshake",)}.items():
        for name in names:
            del plain[group][name]
    del plain["retries"]["budget"]
    if not plain["retries"]["attempts"]:
        plain["retries"] = "off"
    if not plain["keepalive"]["connections"]:
        plain["keepalive"] = "off"
    if plain["policy"]["name"] == "prefix_hash":  # by what prompts are, which nginx cannot see
        plain["policy"] = "nearest"
    if plain["policy"] == {"name": "least_connections"}:
        plain["policy"] = "nearest"
    if (reference or config).access_log.format == "text":  # nginx knows half of what stands in it
        plain["access_log"] = plain["access_log"]["path"]
    # nginx reads one time for both
    plain["timeouts"]["first_byte"] = plain["timeouts"]["idle"] = max(config.timeouts.first_byte, config.timeouts.idle)
    plain["retries"] = {name: sorted(each) if name == "on" else each for name, each in plain["retries"].items()} if (
        isinstance(plain["retries"], dict)
    ) else plain["retries"]  # fmt: skip
    for table, name in [(plain["headers"], "set"), *((backend, "headers") for backend in plain["backends"])]:
        table[name] = [header.partition(":")[0] for header in table[name]]  # values are secrets, and stay here
    plain["routes"] = sorted(plain["routes"], key=lambda route: str(route["path"]))
    plain["backends"] = sorted(plain["backends"], key=lambda backend: str(backend["url"]))
    return plain


BACKENDS = ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
TLS = {"cert": "certs/llm.pem", "key": "certs/llm.key"}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"listen": ["0.0.0.0:8080", "[::]:8080", "unix:/tmp/f.sock"]},
        {"listen": {"address": "0.0.0.0:8443", "tls": TLS}},
        {"listen": {"address": "0.0.0.0:8443", "tls": TLS | {"min_version": "1.3"}}},
        {"listen": {"address": "0.0.0.0:8443", "tls": TLS | {"client_ca": "certs/clients.pem",
                                                             "client_certs": "optional"}}},
        {"listen": {"address": "0.0.0.0:8443", "tls": TLS | {"more": [{"cert": "certs/other.pem",
                                                                       "key": "certs/other.key"}]}}},
        {"listen": [{"address": "0.0.0.0:8443", "tls": TLS}, "0.0.0.0:8080"]},
        {"listen": {"address": "0.0.0.0:80", "proxy_protocol": True}, "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]},
        {"trusted_proxies": ["10.0.0.0/8", "unix"]},
        {"backends": [{"url": "http://a:8000", "weight": 3}, {"url": "http://b:8000", "weight": 1}]},
        {"backends": [{"url": "http://a:8000", "max_connections": 64}, {"url": "http://b:8000", "down": True},
                      {"url": "http://[::1]:8000", "backup": True}]},
        {"backends": ["unix:/run/a.sock", "http://[2001:db8::1]"]},
        {"backends": ["http://a:8000/base", "http://b:8000/base"]},
        {"backends": ["http://a:8000/base", "http://b:8000/base"],
         "routes": [{"path": "/x/", "backends": ["a:8000/base", "b:8000/base"], "strip": True}]},
        {"routes": [{"path": "/v1/", "backends": ["10.0.0.1:8000"]}, {"path": "/", "backends": ["10.0.0.2:8000"]}]},
        {"routes": [{"path": "/a/", "backends": ["10.0.0.1:8000"], "strip": True},
                    {"path": "/b/", "backends": ["10.0.0.1:8000", "10.0.0.2:8000"]}]},
        {"backends": [{"url": "http://a:1", "headers": ["Authorization: Bearer a"]}, "http://b:1"],
         "routes": [{"path": "/a/", "backends": ["a:1"]}, {"path": "/b/", "backends": ["b:1"]}]},
        {"backends": ["https://a:8443", "https://b:8443"], "backend_tls": {"verify": False, "server_name": "x.y"}},
        {"backends": ["https://a:8443"], "backend_tls": {"ca": "certs/engines.pem", "server_name": "a"} | TLS},
        {"headers": {"set": ['X-Team: a "b" \\c d', "X-Two: 2"], "remove": ["x-debug"]}},
        {"timeouts": {"connect": "250ms", "first_byte": "90s", "idle": "90s", "send": "5s", "client_header": "1m",
                      "client_body": "1h", "client_idle": "1d", "client_write": "1500ms"}},
        {"retries": {"attempts": 4, "on": ["connect", "500", "429"], "window": "1m"}},
        {"retries": {"attempts": 0}},
        {"health": {"max_fails": 0, "fail_timeout": "5s"}},
        {"keepalive": {"connections": 7, "requests": 9, "timeout": "3s"}},
        {"limits": {"body": "5MiB", "head": "32KiB", "streams": 17}},
        {"drain": "90s"},
        {"access_log": False},
        {"access_log": {"format": "combined", "path": "a.log"}},
        {"access_log": {"format": "template", "template": '$remote_addr [$time_local] "$request_method" $status \\x'}},
        {"policy": "round_robin"},
        {"policy": "random"},
        {"policy": "power_of_two"},
        {"policy": {"name": "session", "header": "x-user"}},
        {"policy": {"name": "session", "header": None, "cookie": "chat"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_both_sides_can_say_survives_the_way_there_and_back(folder: Path, data: dict[str, Any]) -> None:
    whole = json.dumps({"policy": "least_connections", "backends": BACKENDS} | data)
    before = config(json.loads(whole.replace('"certs/', f'"{folder}/certs/')))
    text = render(before)
    # Names cannot be looked up here, and an address does as well.
    assert complaints(re.sub(r"server ([ab]):", "server 10.9.9.9:", text), folder) == ""
    after = config_of(imported(text, folder, keep_policy=True))
    assert sayable(after, before) == sayable(before)


SECONDS = st.integers(1, 3600).map(lambda number: f"{number}s")
SIZES = st.integers(1, 255).map(lambda number: f"{4 * number}KiB")

SERVERS = st.fixed_dictionaries(
    {"weight": st.integers(1, 1000)}, optional={"max_connections": st.integers(1, 10**6), "down": st.booleans()}
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "backends": st.dictionaries(st.integers(1, 60_000), SERVERS, min_size=1, max_size=6).map(
                lambda servers: [{"url": f"http://10.0.0.1:{port}", **rest} for port, rest in servers.items()]
            ),
            "timeouts": st.dictionaries(st.sampled_from(["send", "client_idle", "client_body"]), SECONDS),
            "limits": st.fixed_dictionaries({"head": SIZES, "streams": st.integers(1, 10_000)}),
            "health": st.fixed_dictionaries({"max_fails": st.integers(0, 10_000), "fail_timeout": SECONDS}),
            "keepalive": st.fixed_dictionaries({"connections": st.integers(1, 100_000), "timeout": SECONDS}),
            "policy": st.sampled_from(["round_robin", "least_connections", "random", "power_of_two"]),
        },
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_way_there_and_back_holds_for_any_numbers(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    before = config({"policy": "least_connections", "backends": BACKENDS} | data)
    after = config_of(imported(render(before), tmp_path_factory.getbasetemp(), keep_policy=True))
    assert sayable(after, before) == sayable(before)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"policy": "expected_completion"}, "# nginx has nothing like the policy expected_completion"),
        ({"policy": {"name": "session", "header": None, "body_field": "user"}}, "nothing like the policy session"),
        ({"policy": "random", "backends": ["a:1", {"url": "b:1", "backup": True}]}, "no backup servers beside random"),
        ({"backends": ["http://a:1", "http://c:1", "https://b:1"]}, "# https://b:1 is left out"),
        ({"backends": [{"url": "a:1", "headers": ["X-Key: 1"]}, "b:1"]}, "# headers of single backends"),
        ({"headers": {"set": ["X-$: 5"]}}, "# X-$: nginx cannot name a $"),
        ({"timeouts": {"first_byte": "5m", "idle": "30s"}}, "first byte 5m, between two pieces 30s"),
        ({"access_log": {"format": "template", "template": "$model $status"}}, "# a dash in place of $model"),
        ({"routes": [{"path": "/a", "backends": ["10.0.0.1:8000"], "strip": True},
                     {"path": "/", "backends": ["10.0.0.2:8000"]}]}, "# /a without a / at its end"),
        ({"backends": ["https://a", "https://b"]}, "# nginx looks for one name in all certificates"),
        ({"backends": ["https://a", {"url": "https://b", "tls": {"verify": False}}]}, "# backends[].tls"),
        ({"backends": [{"url": "a:1", "backup": True}, {"url": "b:1", "backup": True}]}, "server a:1 max_fails"),
        ({"backends": [{"url": "a:1", "weight": 0.5}, {"url": "b:1", "weight": 1.25}, "c:1"]}, "server b:1 weight=5"),
        ({"backends": [{"url": "a:1", "weight": 0.001}, {"url": "b:1", "weight": 999.5}]}, "server a:1 weight=1 "),
        ({"keepalive": {"connections": 0}}, "least_conn;\n        server 10.0.0.1:8000 max_fails=3"),
    ],
)  # fmt: skip
def test_what_nginx_cannot_do_is_said_where_it_would_stand(folder: Path, data: dict[str, Any], words: str) -> None:
    text = render(config({"backends": BACKENDS} | data))
    assert words in text
    has_no_file = "ca-certificates.crt" in text and not Path("/etc/ssl/certs/ca-certificates.crt").exists()
    if not has_no_file:
        assert complaints(re.sub(r"server ([abc]):", "server 10.9.9.9:", text), folder) == ""


def test_further_certificates_are_found_by_the_names_in_them(folder: Path) -> None:
    more = {"cert": f"{folder}/certs/other.pem", "key": f"{folder}/certs/other.key"}
    tls = {"cert": f"{folder}/certs/llm.pem", "key": f"{folder}/certs/llm.key", "more": [more]}
    data = {"backends": BACKENDS, "listen": {"address": "0.0.0.0:8443", "tls": tls}}
    text = render(config(data))
    assert "server_name other.example.com *.other.example.com;" in text
    assert text.count("default_server") == 1
    more["cert"] = "not-there.pem"
    assert "# write the names that stand in the certificate" in render(config(data))


def test_the_nginx_that_is_asked_here_does_refuse(folder: Path) -> None:
    text = render(config({"backends": BACKENDS}))
    assert 'unknown directive "proxy_bufferin"' in complaints(text.replace("proxy_buffering", "proxy_bufferin"), folder)
