"""No export holds a secret of the config: canaries in every place that may hold one, and all kinds written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from exports_tools import make_certificates

from fairlead.cli.main import main
from fairlead.config.schema import Config, options_of
from fairlead.control.exports.registry import KINDS

CANARY = "CANARY-6d1f"
CONFIG = f"""\
listen: {{address: "0.0.0.0:8443", tls: {{cert: certs/llm.pem, key: certs/llm.key}}}}
admin_token_file: token
backends:
  - {{url: "http://10.0.0.1:8000", name: gpu1, headers: ["Authorization: Bearer {CANARY}-1", "X-Key: {CANARY}-2"]}}
  - {{url: "https://10.0.0.2:8000", name: gpu2, headers: ["Authorization: Bearer {CANARY}-3", "X-Key: {CANARY}-2"]}}
  - {{url: "http://10.0.0.3:8000", name: gpu3}}
routes:
  - {{path: /a/, backends: [gpu1]}}
  - {{path: /b/, backends: [gpu2]}}
  - {{path: /, backends: [gpu1, gpu2, gpu3]}}
headers: {{set: ["Authorization: Bearer {CANARY}-4", "X-Harmless: {CANARY}-5"]}}
tracing: {{endpoint: "http://10.0.0.9:4318", headers: ["X-Api-Key: {CANARY}-6"]}}
alerts:
  webhooks:
    - {{url: "https://hooks.example.com/services/{CANARY}-7", format: slack}}
    - {{url: "https://hooks.example.com/services/{CANARY}-8", headers: ["Authorization: {CANARY}-9"]}}
"""
COPIED = {  # kinds of options that exports may copy: they hold no secret
    "address", "bool", "choice", "duration", "float", "http_path", "int", "network", "percent", "size", "table",
    "token", "text", "header_name", "link", "url",
}  # fmt: skip
NAMED = {"file"}  # by its path, and never read but for the names in a certificate
SECRET = {"header", "secret_url"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path)
    (tmp_path / "token").write_text(f"{CANARY}-of-the-admin\n", encoding="utf-8")
    (tmp_path / "fairlead.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_writes_one(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_ADMIN_TOKEN", f"{CANARY}-in-the-environment")
    done = CliRunner().invoke(main, ["export", kind, str(folder / "fairlead.yaml")])
    assert (done.exit_code, done.stderr) == (0, "")
    assert CANARY not in done.stdout
    key = (folder / "certs" / "llm.key").read_text("utf-8").splitlines()[1]
    assert key not in done.stdout


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nginx", ["REPLACE-ME-FAIRLEAD_GPU1_AUTHORIZATION", "REPLACE-ME-FAIRLEAD_HEADERS_X_HARMLESS"]),
        ("envoy", ["%ENVIRONMENT(FAIRLEAD_GPU2_X_KEY)%", "%ENVIRONMENT(FAIRLEAD_HEADERS_AUTHORIZATION)%"]),
        ("kubernetes", ["REPLACE-ME-FAIRLEAD_GPU1_AUTHORIZATION", "REPLACE-ME-FAIRLEAD_GPU2_X_KEY"]),
        (
            "compose",
            [
                "${FAIRLEAD_GPU1_X_KEY:?}",
                "${FAIRLEAD_HEADERS_AUTHORIZATION:?}",
                "url: ${FAIRLEAD_ALERTS_WEBHOOKS_1_URL:?}",
                "url: ${FAIRLEAD_ALERTS_WEBHOOKS_2_URL:?}",
                "X-Api-Key: ${FAIRLEAD_TRACING_X_API_KEY:?}",
            ],
        ),
    ],
)
def test_what_stands_in_their_places_says_what_belongs_there(folder: Path, kind: str, words: list[str]) -> None:
    done = CliRunner().invoke(main, ["export", kind, str(folder / "fairlead.yaml")])
    for word in words:
        assert word in done.stdout


def kinds_of_options(table: type[Any]) -> dict[str, set[str]]:
    """Kind -> names of options, of a table and all within it."""
    found: dict[str, set[str]] = {}
    for name, (option, _) in options_of(table).items():
        found.setdefault(option.kind, set()).add(name)
        if option.table is not None:
            for kind, names in kinds_of_options(option.table).items():
                found.setdefault(kind, set()).update(names)
    return found


def test_whether_a_new_kind_of_option_may_be_copied_is_thought_about() -> None:
    found = kinds_of_options(Config)
    assert set(found) == COPIED | NAMED | SECRET
    assert found["secret_url"] == {"url"} and found["header"] == {"set", "headers"}
    for kind in COPIED - {"table"}:
        assert not {name for name in found[kind] if re.search("secret|password|key|token", name)}, kind
