"""`fairlead export envoy`: the real Envoy takes what is written, and it means what the config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from exports_tools import config, envoy_complaints, in_folder, make_certificates
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.config.schema import Config
from fairlead.control.exports.envoy import render
from fairlead.control.exports.envoy_words import weights

TLS = {"cert": "certs/llm.pem", "key": "certs/llm.key"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("envoy")
    make_certificates(made)
    return made


def read(made: Config | None) -> Any:
    return yaml.safe_load(render(made))


def cluster(data: dict[str, Any]) -> Any:
    return read(config(data))["static_resources"]["clusters"][0]


def manager(data: dict[str, Any]) -> Any:
    listener = read(config(data))["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def routes(data: dict[str, Any]) -> Any:
    return manager(data)["route_config"]["virtual_hosts"][0]["routes"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"listen": ["0.0.0.0:8080", "[::]:8080", "unix:/tmp/f.sock"]},
        {"listen": {"address": "0.0.0.0:8443", "tls": TLS | {"min_version": "1.3", "client_ca": "certs/ca.pem",
                                                             "client_certs": "required"}}},
        {"listen": {"address": "0.0.0.0:8443", "http2": False, "tls": TLS | {
            "client_ca": "certs/ca.pem", "client_certs": "optional",
            "more": [{"cert": "certs/other.pem", "key": "certs/other.key"}]}}},
        {"listen": {"address": "0.0.0.0:80", "proxy_protocol": True}, "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]},
        {"trusted_proxies": ["10.0.0.0/8", "unix"], "forwarded": False},
        {"backends": [{"url": "http://a:8000", "weight": 0.25}, {"url": "http://b:8000", "backup": True},
                      {"url": "http://c:8000", "down": True}]},
        {"backends": [{"url": "http://a:1", "max_connections": 64}, {"url": "http://b:1", "max_connections": 64}]},
        {"backends": ["unix:/run/a.sock", "http://[2001:db8::1]"]},
        {"backends": ["unix:/run/a.sock", "http://named:1"]},
        {"backends": ["https://a:8443", {"url": "https://b:8443", "tls": {"verify": False}}, "http://c:1"]},
        {"backends": ["https://a:8443"], "backend_tls": {"ca": "certs/ca.pem", "server_name": "x.y"} | TLS},
        {"backends": ["https://127.0.0.1:1"], "backend_tls": {"ca": "certs/ca.pem", "server_name": "127.0.0.1"}},
        {"backends": ["http://a:8000/base", "http://b:8000/base"],
         "routes": [{"path": "/x/", "backends": ["a:8000/base"], "strip": True},
                    {"path": "/", "backends": ["a:8000/base", "b:8000/base"]}]},
        {"backends": [{"url": "a:1", "headers": ["Authorization: Bearer a"]}],
         "headers": {"set": ["X-Team: 50%", "X-$: 1"], "remove": ["x-debug"]}},
        *({"policy": name} for name in ("expected_completion", "round_robin", "random", "power_of_two", "prefix_hash")),
        {"policy": {"name": "session", "header": "x-session", "cookie": "chat"}},
        {"policy": {"name": "session", "header": None, "body_field": "user"}},
        {"retries": {"attempts": 0}},
        {"retries": {"attempts": 3, "on": ["429", "500", "connect"], "budget": "0%"}},
        {"health": {"max_fails": 0, "slow_start": 0, "path": "/ready"}},
        {"health": {"fail_timeout": "10m"}},
        {"keepalive": {"connections": 0}},
        {"limits": {"body": "5MiB", "head": "1MiB", "streams": 17, "headers": 1000, "connections": 1_000_000}},
        {"drain": 0},
        {"access_log": False},
        {"access_log": {"format": "json", "path": "/tmp/a.log"}},
        {"timeouts": {"connect": "1ms", "first_byte": "90s", "idle": "1d", "client_header": "1m"}},
    ],
    ids=str,
)  # fmt: skip
def test_the_real_envoy_takes_it(folder: Path, data: dict[str, Any]) -> None:
    assert envoy_complaints(render(in_folder(data, folder)), folder) == ""


def test_the_real_envoy_takes_the_defaults_and_refuses_what_is_wrong(folder: Path) -> None:
    assert envoy_complaints(render(None), folder) == ""
    assert "max_connectionz" in envoy_complaints(render(None).replace("max_connections", "max_connectionz", 1), folder)


# --- what it says ---------------------------------------------------------------------------------------------


def test_backends_are_endpoints_with_weights_places_and_states() -> None:
    made = cluster({
        "backends": [
            {"url": "http://a:8000", "weight": 0.5}, {"url": "http://b", "weight": 1.25},
            {"url": "https://c", "backup": True}, {"url": "http://d:1", "down": True},
        ]
    })  # fmt: skip
    first, second = made["load_assignment"]["endpoints"]
    assert (first["priority"], second["priority"]) == (0, 1)
    told = [
        (each["endpoint"]["address"]["socket_address"], each["load_balancing_weight"], each.get("health_status"))
        for each in first["lb_endpoints"] + second["lb_endpoints"]
    ]
    assert told == [
        ({"address": "a", "port_value": 8000}, 2, None),
        ({"address": "b", "port_value": 80}, 5, None),
        ({"address": "d", "port_value": 1}, 4, "UNHEALTHY"),
        ({"address": "c", "port_value": 443}, 4, None),
    ]
    assert made["type"] == "STRICT_DNS" and cluster({})["type"] == "STATIC"


def test_without_weights_none_is_written() -> None:
    assert "load_balancing_weight" not in render(config())


def test_health_checks_outliers_and_timeouts_are_those_of_the_config() -> None:
    made = cluster({
        "health": {"interval": "7s", "timeout": "250ms", "rise": 4, "fall": 5, "path": "/up", "max_fails": 6,
                   "fail_timeout": "20s", "fail_timeout_max": "2m", "max_ejected": "34%", "slow_start": "40s"},
        "timeouts": {"connect": "1500ms", "first_byte": "2m", "idle": "3m", "client_header": "11s"},
        "keepalive": {"requests": 77, "timeout": "9s"},
        "retries": {"attempts": 4, "budget": "15%"},
    })  # fmt: skip
    (check,) = made["health_checks"]
    assert check == {
        "interval": "7s", "timeout": "0.25s", "healthy_threshold": 4, "unhealthy_threshold": 5,
        "http_health_check": {"path": "/up"},
    }  # fmt: skip
    outliers = made["outlier_detection"]
    assert (outliers["consecutive_5xx"], outliers["max_ejection_percent"]) == (6, 34)
    assert (outliers["base_ejection_time"], outliers["max_ejection_time"]) == ("20s", "120s")
    assert made["least_request_lb_config"]["slow_start_config"]["slow_start_window"] == "40s"
    assert made["connect_timeout"] == "1.5s"
    (protocol,) = made["typed_extension_protocol_options"].values()
    assert protocol["common_http_protocol_options"] == {"idle_timeout": "9s", "max_requests_per_connection": 77}
    assert made["circuit_breakers"]["thresholds"][0]["retry_budget"]["budget_percent"] == {"value": 15.0}


def test_no_outlier_detection_where_failures_do_not_count() -> None:
    assert "outlier_detection" not in cluster({"health": {"max_fails": 0}})


def test_retries_are_those_of_the_config_and_go_to_another_backend() -> None:
    (route,) = routes({"retries": {"attempts": 3, "on": ["connect", "503", "429"]}})
    policy = route["route"]["retry_policy"]
    assert policy["retry_on"] == "connect-failure,refused-stream,retriable-status-codes"
    assert (policy["num_retries"], policy["retriable_status_codes"]) == (3, [429, 503])
    assert "previous_hosts" in str(policy["retry_host_predicate"])
    assert "reset" in routes({})[0]["route"]["retry_policy"]["retry_on"].split(",")
    assert "retry_policy" not in routes({"retries": {"attempts": 0}})[0]["route"]


def test_streams_may_take_as_long_as_they_like_while_something_moves() -> None:
    (route,) = routes({"timeouts": {"first_byte": "2m", "idle": "3m"}})
    assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == ("0s", "180s")


def test_the_longest_route_comes_first_and_strips_what_it_should() -> None:
    made = routes({
        "backends": [{"url": "http://a:1/base", "name": "a"}, {"url": "http://b:1", "name": "b"}],
        "routes": [{"path": "/", "backends": ["b"]}, {"path": "/llm/", "backends": ["a"], "strip": True},
                   {"path": "/llm/keep/", "backends": ["a"]}],
    })  # fmt: skip
    told = [
        (route["match"]["prefix"], route["route"].get("prefix_rewrite"), route["route"]["cluster"]) for route in made
    ]
    assert told == [("/llm/keep/", "/base/llm/keep/", "llm"), ("/llm/", "/base/", "llm"), ("/", None, "llm_2")]


def test_limits_of_clients_are_those_of_the_config() -> None:
    made = manager({"limits": {"body": "5MiB", "head": "33KiB", "streams": 17, "headers": 50}})
    assert made["max_request_headers_kb"] == 33
    assert made["http2_protocol_options"] == {"max_concurrent_streams": 17}
    assert made["common_http_protocol_options"]["max_headers_count"] == 50
    assert made["http_filters"][0]["typed_config"]["max_request_bytes"] == 5 * 1024**2


@pytest.mark.parametrize(
    ("name", "found"),
    [("round_robin", "ROUND_ROBIN"), ("random", "RANDOM"), ("session", "RING_HASH"), ("latency", "LEAST_REQUEST")],
)
def test_a_policy_is_the_nearest_that_envoy_has(name: str, found: str) -> None:
    assert cluster({"policy": name})["lb_policy"] == found


def test_sessions_go_by_header_and_then_by_cookie() -> None:
    (route,) = routes({"policy": {"name": "session", "header": "x-chat", "cookie": "c"}})
    assert route["route"]["hash_policy"] == [
        {"header": {"header_name": "x-chat"}, "terminal": True}, {"cookie": {"name": "c"}, "terminal": True},
    ]  # fmt: skip


def test_each_backend_keeps_its_own_tls() -> None:
    made = cluster({
        "backends": ["https://a", {"url": "https://b", "tls": {"verify": False}}, "http://c"],
        "backend_tls": {"server_name": "x.y"},
    })  # fmt: skip
    checked, unchecked = made["transport_socket_matches"]
    context = checked["transport_socket"]["typed_config"]
    assert context["sni"] == "x.y"
    (name,) = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert name["matcher"] == {"exact": "x.y"}
    assert "validation_context" not in unchecked["transport_socket"]["typed_config"]["common_tls_context"]
    a, b, c = made["load_assignment"]["endpoints"][0]["lb_endpoints"]
    for endpoint, match in [(a, checked), (b, unchecked)]:
        assert endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"] == match["match"]
    assert "metadata" not in c


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "policy expected_completion: Envoy knows no tokens"),
        ({}, "health.path auto, which asks each kind of engine in its own way: all are asked for /health"),
        ({}, "keepalive.connections (100): no limit"),
        ({}, "retries.window"),
        ({"backends": ["http://a:1", "http://b:1", "http://c:1/x"]}, "c:1/x: backends of a route share their base"),
        ({"backends": ["a:1", "unix:/run/a.sock"]}, "unix:/run/a.sock: no socket files beside names"),
        ({"backends": [{"url": "a:1", "headers": ["X-Key: 1"]}, "b:1"]}, "backends[].headers: all backends"),
        ({"backends": [{"url": "a:1", "max_connections": 5}, "b:1"]}, "backends[].max_connections: one limit"),
        ({"backends": [{"url": "a:1", "health_path": "/x"}, "b:1"]}, "backends[].health_path"),
        ({"listen": {"address": "0.0.0.0:80", "proxy_protocol": True}, "trusted_proxies": "10.0.0.0/8"}, "proxy_pro"),
        ({"hedging": "auto"}, "hedging"),
        ({"shadow": "random"}, "shadow"),
        ({"resume": True}, "resume"),
        ({"recording": "/tmp/r.jsonl"}, "recording"),
        ({"decisions": {"path": "/tmp/d.jsonl"}}, "decisions"),
        ({"tracing": {"endpoint": "http://otel:4318"}}, "tracing"),
        ({"alerts": {"webhooks": [{"url": "https://hooks.example.com/T/B"}]}}, "alerts"),
        ({"drain_delay": "5s"}, "drain_delay"),
        ({"workers": 2}, "workers: say --concurrency"),
        ({"forwarded": False}, "forwarded"),
        ({"policy": {"name": "session", "header": None, "body_field": "user"}}, "policy.body_field"),
        ({"access_log": {"format": "template", "template": "$model"}}, "access_log.format"),
    ],
    ids=str,
)  # fmt: skip
def test_what_envoy_cannot_do_is_listed_at_the_top(data: dict[str, Any], words: str) -> None:
    head = render(config(data)).partition("\n\n")[0]
    assert f"#   - {words}" in head


def test_only_what_was_asked_for_is_listed() -> None:
    head = render(config({"policy": "round_robin", "health": {"path": "/x"}})).partition("\n\n")[0]
    assert not any(f"#   - {word}" in head for word in ("policy", "health", "hedging", "shadow", "resume", "recording"))


def test_backends_with_names_alike_have_variables_of_their_own() -> None:
    text = render(config({
        "backends": [{"url": "a:1", "name": "gpu-1", "headers": ["X-Key: 1"]},
                     {"url": "b:1", "name": "gpu_1", "headers": ["X-Key: 2"]}],
        "routes": [{"path": "/a/", "backends": ["gpu-1"]}, {"path": "/b/", "backends": ["gpu_1"]}],
    }))  # fmt: skip
    assert "%ENVIRONMENT(FAIRLEAD_GPU_1_X_KEY)%" in text and "%ENVIRONMENT(FAIRLEAD_GPU_1_X_KEY_2)%" in text
    assert "from its environment: FAIRLEAD_GPU_1_X_KEY, FAIRLEAD_GPU_1_X_KEY_2\n" in text


# --- words ----------------------------------------------------------------------------------------------------

WEIGHT = st.one_of(st.none(), st.floats(0.001, 1000.0))


@settings(max_examples=200, deadline=None)
@given(st.lists(WEIGHT, min_size=1, max_size=8))
def test_weights_are_whole_and_in_proportion(given: list[float | None]) -> None:
    whole = weights(given)
    if all(weight is None for weight in given):
        assert whole is None
        return
    assert whole is not None and all(1 <= each <= 1_000_000 for each in whole)
    exact = [1.0 if weight is None else weight for weight in given]
    for one, other in zip(exact, whole, strict=True):
        share = one / sum(exact)
        assert other / sum(whole) == pytest.approx(share, abs=0.005)
