"""`fairlead export kubernetes`: manifests that pass the published schemas and hang together."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import yaml
from exports_tools import config, documents, needed

from fairlead.config.load import parse
from fairlead.config.schema import Config
from fairlead.control.exports.kubernetes import DELAY_SECONDS, render

KINDS = {"ServiceAccount", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
FITTED = {  # to a pod, or without their secrets and files
    "listen", "admin", "admin_token_file", "backends", "backend_tls", "access_log", "recording", "decisions",
    "drain_delay",
}  # fmt: skip
VERSIONS = ("1.28", "1.33", "1.37")
TLS = {"cert": "/certs/llm.pem", "key": "/keys/llm.key"}
CONFIGS: list[dict[str, Any] | None] = [
    None,
    {},
    {"listen": ["0.0.0.0:443", "127.0.0.1:8080", "[::]:8080", "unix:/run/f.sock"]},
    {"listen": {"address": "0.0.0.0:8443", "tls": TLS}, "backend_tls": {"ca": "/ca/llm.pem"}},
    {"backends": [{"url": "a:1", "headers": ["Authorization: Bearer x"]}], "workers": 4},
    {
        "hedging": "auto",
        "shadow": {},
        "resume": True,
        "policy": {"name": "session", "cookie": "c"},
        "drain": "1500ms",
        "routes": [{"path": "/v1/", "backends": ["10.0.0.1:8000"], "strip": True}],
        "trusted_proxies": ["10.0.0.0/8"],
    },
    {"access_log": {"format": "template", "template": "$model: '$status' # {{x}} \"é\""}},
]


def made(data: dict[str, Any] | None) -> Config | None:
    return None if data is None else config(data)


def pod(data: dict[str, Any] | None) -> Any:
    return documents(render(made(data)))["Deployment"]["spec"]["template"]["spec"]


def text_of(data: dict[str, Any] | None) -> str:
    """The config file that the pod reads."""
    found = documents(render(made(data)))
    text = found["ConfigMap"]["data"] if "ConfigMap" in found else found["Secret"]["stringData"]
    return str(text["fairlead.yaml"])


def inside(data: dict[str, Any] | None) -> Config:
    """What Fairlead makes of it."""
    read, problems = parse(yaml.safe_load(text_of(data)), "inside")
    assert read is not None, "\n".join(map(str, problems))
    return read


@pytest.mark.parametrize("data", CONFIGS, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_published_schemas_find_nothing_wrong(data: dict[str, Any] | None, version: str) -> None:
    check = needed("kubernetes_validate")
    for document in documents(render(made(data))).values():
        assert check.validate(document, version, strict=True) == version


def test_the_schemas_would_say_what_is_wrong() -> None:
    check = needed("kubernetes_validate")
    wrong = documents(render(None).replace("failureThreshold: 30", "failureTreshold: 30"))["Deployment"]
    with pytest.raises(check.ValidationError, match="failureTreshold"):
        check.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("data", CONFIGS, ids=str)
def test_names_labels_and_ports_hang_together(data: dict[str, Any] | None) -> None:
    found = documents(render(made(data)))
    assert set(found) in (KINDS, KINDS - {"ConfigMap"} | {"Secret"})
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    spec = found["Deployment"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    (container,) = spec["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert len(set(ports.values())) == len(container["ports"])
    assert {each["targetPort"] for each in found["Service"]["spec"]["ports"]} == set(ports) - {"admin"}
    assert {name: container[name]["httpGet"]["port"] for name in container if name.endswith("Probe")} == dict.fromkeys(
        ("startupProbe", "livenessProbe", "readinessProbe"), "admin"
    )
    open_to_all, admin = found["NetworkPolicy"]["spec"]["ingress"]
    assert {each["port"] for each in open_to_all["ports"]} == set(ports) - {"admin"} and "from" not in open_to_all
    assert admin["ports"] == [{"port": "admin"}] and admin["from"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    source = volumes["config"].get("configMap", {}).get("name") or volumes["config"]["secret"]["secretName"]
    assert source == "fairlead" and ("secret" in volumes["config"]) == ("Secret" in found)


@pytest.mark.parametrize("data", CONFIGS, ids=str)
def test_the_config_inside_is_one_that_fairlead_reads_and_means_the_same(data: dict[str, Any] | None) -> None:
    read = inside(data)
    (container,) = pod(data)["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (read.admin.host, read.admin.port) == ("0.0.0.0", ports.pop("admin"))
    assert [(each.address.host, each.address.port) for each in read.listen] == [("0.0.0.0", p) for p in ports.values()]
    if (before := made(data)) is not None:
        assert [each.url for each in read.backends] == [each.url for each in before.backends]
        for field in {each.name for each in dataclasses.fields(Config)} - FITTED:
            assert getattr(read, field) == getattr(before, field), field
        assert read.access_log.template == before.access_log.template


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert set(yaml.safe_load(text_of({"health": {"rise": 5}}))) == {
        "listen",
        "admin",
        "backends",
        "health",
        "drain_delay",
    }
    assert yaml.safe_load(text_of({"health": {"rise": 5}}))["health"] == {"rise": 5}


def test_a_pod_that_goes_serves_on_until_nobody_sends_more() -> None:
    assert inside({}).drain_delay == DELAY_SECONDS
    assert inside({"drain_delay": "12s"}).drain_delay == 12.0
    for data, least in [({}, 30 + 5), ({"drain": "2m", "drain_delay": "12s"}, 120 + 12)]:
        assert pod(data)["terminationGracePeriodSeconds"] >= least + 5


def test_it_has_no_rights_in_the_cluster_and_few_on_the_machine() -> None:
    text, spec = render(None), pod(None)
    assert "kind: Role" not in text and "No Role and no RoleBinding" in text
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_files_of_the_config_come_from_a_secret_each_under_its_own_name() -> None:
    more = [{"cert": "/other/llm.pem", "key": "/other/llm.key"}]
    data = {"listen": {"address": "0.0.0.0:8443", "tls": TLS | {"more": more}}}
    tls = inside(data).listen[0].tls
    assert tls is not None
    paths = [tls.cert, tls.key, tls.more[0].cert, tls.more[0].key]
    assert len(set(paths)) == 4
    (mount,) = [each for each in pod(data)["containers"][0]["volumeMounts"] if each["name"] == "files"]
    assert all(path.startswith(mount["mountPath"] + "/") for path in paths)
    told = dict(re.findall(r"--from-file=([^= ]+)=(\S+)", render(config(data))))
    assert {f"{mount['mountPath']}/{name}": path for name, path in told.items()} == dict(
        zip(paths, [TLS["cert"], TLS["key"], "/other/llm.pem", "/other/llm.key"], strict=True)
    )


def test_a_reload_asks_the_port_that_the_config_names() -> None:
    assert "-- fairlead reload\n" in render(None)
    assert "-- fairlead reload --admin http://127.0.0.1:9901\n" in render(config({"admin": "127.0.0.1:9901"}))


def test_low_ports_are_allowed_only_where_there_are_some() -> None:
    assert "sysctls" not in pod({})["securityContext"]
    assert pod({"listen": "0.0.0.0:443"})["securityContext"]["sysctls"][0]["value"] == "0"


def test_memory_covers_the_bodies_that_may_be_held() -> None:
    (container,) = pod({"limits": {"body_memory": "3GiB"}, "workers": 2})["containers"]
    assert container["resources"]["limits"]["memory"] == f"{3 * 1024 + 2 * 512}Mi"
    assert container["resources"]["requests"]["cpu"] == "2"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"listen": "unix:/run/f.sock"}, "unix:/run/f.sock is left out"),
        ({"listen": ["127.0.0.1:80", {"address": "[::1]:80", "http2": False}]}, "[::1]:80 is left out: its port"),
        ({"recording": "/tmp/r.jsonl"}, "recording is left out"),
        ({"decisions": {"path": "/tmp/d.jsonl"}}, "decisions is left out"),
        ({"backends": ["127.0.0.1:8001"]}, "backend 127.0.0.1:8001 is on the machine itself"),
        ({"access_log": {"path": "/tmp/a.log"}}, "the access log goes to standard output"),
    ],
)
def test_what_changes_in_a_container_is_said(data: dict[str, Any], words: str) -> None:
    assert f"# {words}" in render(config(data)) and words not in render(None)
