"""Helpers of the tests here: certificates that are made once, and the real `nginx -t`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from fairlead.config.document import read_document
from fairlead.config.load import parse
from fairlead.config.problems import Problems
from fairlead.config.schema import Config
from fairlead.nginx.convert import Imported, import_nginx
from fairlead.nginx.emit import yaml_text

SAMPLES = Path(__file__).parent / "samples"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def make_certificates(folder: Path) -> None:
    """certs/: two certificates with their keys, and the CA under the names that the samples use."""
    (folder / "certs").mkdir()
    authority = trustme.CA()
    for name in ("llm", "other"):
        made = authority.issue_cert(f"{name}.example.com", f"*.{name}.example.com")
        made.cert_chain_pems[0].write_to_path(folder / "certs" / f"{name}.pem")
        made.private_key_pem.write_to_path(folder / "certs" / f"{name}.key")
    for name in ("clients", "engines"):
        authority.cert_pem.write_to_path(folder / "certs" / f"{name}.pem")


def complaints(text: str, folder: Path) -> str:
    """What the real nginx has against a configuration; '' when it takes it."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    # Names are looked up by nginx -t, and its own folders may belong to another user.
    text = re.sub(r"\bserver [a-z0-9-]+\.internal:", "server 10.9.9.9:", text)
    places = "".join(f"{name}_temp_path {folder}/{name}_temp; " for name in TEMPORARY)
    file = folder / "exported.conf"
    file.write_text(text.replace("http {", "http { " + places, 1), encoding="utf-8")
    arguments = ["-t", "-q", "-p", str(folder), "-c", str(file), "-e", "stderr", "-g", f"pid {folder}/pid;"]
    done = subprocess.run([NGINX, *arguments], capture_output=True, text=True, timeout=30, check=False)
    said = [line for line in done.stderr.splitlines() if "exceed open file resource limit" not in line]
    assert done.returncode == 0 or said
    return "\n".join(said)


def imported(text: str, folder: Path, **options: object) -> Imported:
    """An nginx.conf of this text, imported."""
    file = folder / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return import_nginx(str(file), **options)  # type: ignore[arg-type]


def config_of(made: Imported) -> Config:
    """What Fairlead's parser makes of it."""
    config, problems = parse(made.data, "imported")
    assert config is not None, "\n".join(map(str, problems))
    return config


def read_back(made: Imported) -> object:
    """What the written file says."""
    problems = Problems("written")
    data, _ = read_document(yaml_text(made.data, made.comments, ["a head", ""]), problems)
    assert not problems.found
    return data
