"""A compose file that runs Fairlead, with room for engines beside it.

Rule 1: it runs as it is where its backends can be reached; the config stands in it.
Rule 2: secrets are read from the environment (or a file `.env`) when it is started: ${NAME} and nothing else.
Rule 3: the container may do as little as the pod of kubernetes.py may, and stopping it waits for the drain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from textwrap import indent
from typing import Final

from fairlead import __version__
from fairlead.config.schema import Backend, Config
from fairlead.control.exports.contained import CONFIG_FILE, FOLDER, Contained, contained
from fairlead.control.exports.kubernetes import SPARE_SECONDS, USER
from fairlead.control.gate import VARIABLE

EXAMPLE: Final = Config(backends=(Backend(url="http://vllm-0:8000"), Backend(url="http://vllm-1:8000")))

_HEAD: Final = """\
# Fairlead by Docker Compose 2.23.1 or later, written by `fairlead export compose`.
# Start it with: docker compose up --detach    Stop it, after running answers have ended: docker compose down
#
# In the environment or in a file `.env` beside this one, when it is started:
#   FAIRLEAD_SOURCE: the folder with Fairlead's source, unless it is this one
#   FAIRLEAD_ADMIN_TOKEN: at least 16 letters and digits; calls of the admin API have to show it
"""

_ENGINES: Final = """\

  # Engines to run beside it, one for each GPU. They need no ports of their own: only Fairlead speaks with them.
  # Name them under `backends` below: http://vllm-0:8000
  #
  # vllm-0: &vllm
  #   image: vllm/vllm-openai:latest
  #   command: [--model, "${MODEL:?}", --enable-prefix-caching]
  #   ipc: host
  #   volumes: [models:/root/.cache/huggingface]
  #   deploy: {resources: {reservations: {devices: [{driver: nvidia, device_ids: ["0"], capabilities: [gpu]}]}}}
  # vllm-1:
  #   <<: *vllm
  #   deploy: {resources: {reservations: {devices: [{driver: nvidia, device_ids: ["1"], capabilities: [gpu]}]}}}
  #
  # and at the end of this file:
  # volumes: {models: {}}
"""


def render(config: Config | None) -> str:
    """The file for `config`, or for two engines of this very file."""
    known = config or EXAMPLE
    if known.admin.path:
        known = replace(known, admin=Config().admin)
    made = contained(known, _mark)
    return "\n".join([*_head(made, config is None), "", *_service(made, known), _ENGINES, *_configs(made)]) + "\n"


def _mark(name: str) -> str:
    """Stands for a variable until dollar signs are escaped."""
    return f"<{name}>"


def _head(made: Contained, is_example: bool) -> Iterator[str]:
    yield _HEAD.rstrip("\n")
    yield from (f"#   {name}: {what}" for name, what in made.secrets.items())
    if is_example:
        yield "# The backends are an example: give your config file to `fairlead export compose`."
    yield from (f"# {note}" for note in dict.fromkeys(made.notes))


def _service(made: Contained, outside: Config) -> Iterator[str]:
    config = made.config
    package = "'/source[otel]'" if config.tracing is not None else "/source"
    yield f"""\
name: fairlead

services:
  fairlead:
    image: fairlead:{__version__}
    build:
      context: ${{FAIRLEAD_SOURCE:-.}}
      dockerfile_inline: |
        FROM python:3.12-slim
        COPY . /source
        RUN pip install --no-cache-dir {package} && rm -rf /source
        USER {USER}:{USER}
        ENTRYPOINT ["fairlead"]
        CMD ["serve", "--config", "{CONFIG_FILE}"]
    command: [serve, --config, {CONFIG_FILE}]
    environment:
      {VARIABLE}: ${{{VARIABLE}:?at least 16 letters and digits}}
    configs:
      - {{source: fairlead, target: {CONFIG_FILE}}}
    ports:"""
    for listen in config.listen:
        port = listen.address.port
        yield f'      - "{port}:{port}"'
    # also where the config has it open to all: that is a container's own network then
    yield f'      - "127.0.0.1:{config.admin.port}:{config.admin.port}"  # admin API and metrics: this machine alone'
    if made.files:
        yield "    volumes:"
    for path, inside in made.files.items():
        source = json.dumps((path if path.startswith("/") else f"./{path}").replace("$", "$$"))
        yield f"      - {{type: bind, source: {source}, target: {json.dumps(inside)}, read_only: true}}"
    yield f"""\
    healthcheck:
      test:
        - CMD
        - python
        - -c
        - "import urllib.request as r; r.urlopen('http://127.0.0.1:{config.admin.port}/healthz', timeout=2)"
      interval: 10s
      timeout: 5s
      start_period: 10s
    user: "{USER}:{USER}"
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    # drain ({outside.drain:g} s) and drain_delay ({outside.drain_delay:g} s), and some more
    stop_grace_period: {math.ceil(outside.drain + outside.drain_delay) + SPARE_SECONDS}s
    restart: unless-stopped"""


def _configs(made: Contained) -> Iterator[str]:
    text = made.text.replace("$", "$$")
    for name in made.secrets:
        text = text.replace(_mark(name), f"${{{name}:?}}")
    yield f"""\
configs:
  # {FOLDER}/fairlead.yaml. $$ is one dollar sign; `docker compose up` takes changes up by starting it anew.
  fairlead:
    content: |
{indent(text.rstrip(), "      ")}"""
