"""Which entries of /v1/models are a backend's own? They are passed on as the engine wrote them."""

from __future__ import annotations

from typing import Any

import msgspec

from fairlead.engines.interface import Answer


def entries(listed: Answer | None, models: frozenset[str]) -> tuple[dict[str, Any], ...]:
    """The engine's own entries for its models; made up where it lists none."""
    found: dict[str, dict[str, Any]] = {}
    if listed is not None and listed.status == 200:
        try:
            data = msgspec.json.decode(listed.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            data = None
        items = data.get("data") if isinstance(data, dict) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                found[item["id"]] = item
    for name in models - {"*"} - found.keys():
        found[name] = {"id": name, "object": "model", "created": 0, "owned_by": "fairlead"}
    return tuple(entry for name, entry in sorted(found.items()) if name in models or "*" in models)
