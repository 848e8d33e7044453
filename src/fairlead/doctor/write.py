"""Engines that were found -> the text of a config file that teaches while it works.

Rule 1: what is written passes `fairlead check` as it is; what may be wanted later stands in comments.
Rule 2: no secret: a key's place is shown, a key never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fairlead.doctor.places import LOCKED, Found
from fairlead.doctor.read import printable

MOST_MODELS: Final = 4
LISTEN_PORTS: Final = (8080, 8090, 8888, 18080)

_TOP: Final = """\
# Fairlead: one address in front of all engines. Written by `fairlead init`; yours to change.
#
#   fairlead check {file}     every problem of this file at once, without asking anybody
#   fairlead doctor {file}    what of the engines below hurts balancing, and how to mend it
#   fairlead serve {file}     start

# Where clients are served: 127.0.0.1 is this machine alone, 0.0.0.0 everybody who can reach it.
listen: {listen}

# Metrics, API and dashboard. Keep it private.
admin: 127.0.0.1:9900

# expected_completion looks at queue, prefix cache and learned speed of each engine, and is right for most.
policy: expected_completion

# Kind, version, models, speed and metrics of an engine are found out while Fairlead runs.
backends:
"""

_BOTTOM: Final = """\

  # What a backend may have besides its url:
  #   weight: 2             share of the work next to the others. Leave it out: speeds are learned, and a
  #                         weight replaces what was learned. For engines that share a card, for example.
  #   max_connections: 64   most requests in flight; for engines whose own queue has no limit
  #   backup: true          gets requests only while no other backend of its model is up

# Idle connections are kept so that a request need not wait for a new one. The time must be shorter than the engines'
# own: vLLM and TensorRT-LLM close theirs after 5s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE). `fairlead doctor` measures it.
keepalive:
  timeout: 4s

# A backend is asked every `interval`; `fall` bad answers in a row take it out, `rise` good ones bring it back. Failed
# requests count besides: `max_fails` of them within `fail_timeout` rest it.
health:
  interval: 5s
  rise: 2
  fall: 3
  # fail_timeout: 30s
"""

_KEY: Final = """\
    # It asks for a key. Clients that send their own need nothing here; else put it in a file that only you can read:
    # headers: ["Authorization: Bearer KEY"]
"""


def config_text(found: Sequence[Found], file: str = "fairlead.yaml") -> str:
    """The file. `found` are engines only, at least one."""
    taken = {one.place.port for one in found}
    port = next(port for port in (*LISTEN_PORTS, 18081) if port not in taken)
    name = printable(file) if file != "-" else "fairlead.yaml"
    text = _TOP.format(file=name, listen=f"127.0.0.1:{port}")
    for one in found:
        text += f"  - url: {one.place.url}  # {about(one)}\n"
        if one.what == LOCKED:
            text += _KEY
    return text + _BOTTOM


def about(found: Found) -> str:
    """An engine in a few words, for a comment or a terminal."""
    kind = f"{found.title or 'something'} {found.version or ''}".strip()
    names = [model.id for model in found.models]
    more = f" and {len(names) - MOST_MODELS} more" if len(names) > MOST_MODELS else ""
    longest = next((model.longest for model in found.models if model.longest), None)
    tokens = f", {longest} tokens" if longest else ""
    if found.what == LOCKED:
        return printable(f"{kind}, asks for a key")
    return printable(f"{kind}: {', '.join(names[:MOST_MODELS]) or 'no model'}{more}{tokens}", 200)
