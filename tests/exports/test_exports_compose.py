"""`fairlead export compose`: a file that a reader of the specification takes, with a config that Fairlead takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from exports_tools import config, needed

from fairlead.config.load import parse
from fairlead.config.schema import Config
from fairlead.control.exports.compose import render

CONFIGS: list[dict[str, Any] | None] = [
    None,
    {},
    {"listen": ["0.0.0.0:443", "127.0.0.1:8080", "unix:/run/f.sock"], "drain": "90s"},
    {"listen": {"address": "0.0.0.0:8443", "tls": {"cert": "certs/a.pem", "key": "/k/a$b.key"}}},
    {"backends": [{"url": "a:1", "name": "gpu 1", "headers": ["Authorization: Bearer x", "X-$: 1"]}]},
    {"access_log": {"format": "template", "template": '$model $status \'"é"'}},
]
NAME = re.compile(r"\$(?:\$|\{(\w+)(?::?[-?][^}]*)?\}|(\w+))")


def read(data: dict[str, Any] | None) -> Any:
    return yaml.safe_load(render(None if data is None else config(data)))


def interpolated(text: str, environ: dict[str, str]) -> str:
    """As compose does it."""
    return NAME.sub(lambda match: "$" if match[0] == "$$" else environ[match[1] or match[2]], text)


def inside(data: dict[str, Any] | None, environ: dict[str, str] | None = None) -> Config:
    """What Fairlead makes of the config in the container."""
    text = interpolated(read(data)["configs"]["fairlead"]["content"], environ or {})
    made, problems = parse(yaml.safe_load(text), "inside")
    assert made is not None, "\n".join(map(str, problems))
    return made


@pytest.mark.parametrize("data", CONFIGS, ids=str)
def test_a_reader_of_the_specification_finds_nothing_wrong(data: dict[str, Any] | None) -> None:
    compose = needed("compose_spec")
    found = compose.PyCompose.from_yaml(render(None if data is None else config(data)))
    found.validate()
    assert list(found.service_names()) == ["fairlead"]


def test_the_reader_would_say_what_is_wrong() -> None:
    compose = needed("compose_spec")
    with pytest.raises(ValueError, match="restart"):
        compose.PyCompose.from_yaml(render(None).replace("restart: unless-stopped", "restart: sometimes"))


def test_the_engines_in_comments_are_a_good_file_too() -> None:
    """Without the comment signs, and with the volume that they name."""
    compose = needed("compose_spec")
    text = render(None)
    lines = text.split("  # Engines to run beside it")[1].split("\n  #\n")[1].splitlines()
    engines = [re.sub(r"^  # ", "  ", line) for line in lines]
    whole = text.replace("\nconfigs:\n", "\n" + "\n".join(engines) + "\n\nvolumes: {models: {}}\nconfigs:\n", 1)
    found = compose.PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(whole)))  # which puts `<<` in its place
    assert set(found.service_names()) == {"fairlead", "vllm-0", "vllm-1"}
    hosts = {f"http://{name}:8000" for name in found.service_names()}
    assert {backend.url for backend in inside(None).backends} < hosts


@pytest.mark.parametrize("data", CONFIGS, ids=str)
def test_the_config_inside_is_one_that_fairlead_reads_and_means_the_same(data: dict[str, Any] | None) -> None:
    secrets = {"FAIRLEAD_GPU_1_AUTHORIZATION": "Bearer x", "FAIRLEAD_GPU_1_X": "1"}
    made = inside(data, secrets)
    service = read(data)["services"]["fairlead"]
    data_ports = [each.partition(":")[0] for each in service["ports"] if not each.startswith("127.")]
    assert [str(each.address) for each in made.listen] == [f"0.0.0.0:{port}" for port in data_ports]
    assert f"127.0.0.1:{made.admin.port}:{made.admin.port}" in service["ports"]
    if data is not None:
        before = config(data)
        assert made.backends == before.backends
        assert made.access_log == before.access_log


def test_files_of_the_config_are_mounted_where_it_looks_for_them() -> None:
    data = {"listen": {"address": "0.0.0.0:8443", "tls": {"cert": "certs/a.pem", "key": "/k/a$b.key"}}}
    tls = inside(data).listen[0].tls
    assert tls is not None
    mounts = read(data)["services"]["fairlead"]["volumes"]
    assert [(each["source"], each["target"]) for each in mounts] == [
        ("./certs/a.pem", tls.cert), ("/k/a$$b.key", tls.key),
    ]  # fmt: skip
    assert all(each["read_only"] for each in mounts)


def test_stopping_it_waits_for_the_drain() -> None:
    for data, least in [({}, 30), ({"drain": "90s", "drain_delay": "5s"}, 95)]:
        assert int(read(data)["services"]["fairlead"]["stop_grace_period"].removesuffix("s")) > least


def test_the_admin_port_is_this_machines_alone_and_needs_a_token() -> None:
    service = read(None)["services"]["fairlead"]
    assert [each for each in service["ports"] if ":9900" in each] == ["127.0.0.1:9900:9900"]
    assert service["environment"]["FAIRLEAD_ADMIN_TOKEN"].startswith("${FAIRLEAD_ADMIN_TOKEN:?")
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
