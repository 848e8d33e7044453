"""How nginx chose a server -> a policy, and when it asked the next one -> retries.

Rule 1: without keys, nginx balances by counting; expected_completion knows what requests cost, so it takes that place
        unless the user wants to keep nginx's way. What keeps a client at one server becomes a policy that does too.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.places import Scope
from fairlead.nginx.tree import Directive

_HEADER_KEY: Final = re.compile(r"\$(?:http_(\w+)|\{http_(\w+)\})")
_COOKIE_KEY: Final = re.compile(r"\$(?:cookie_(\w+)|\{cookie_(\w+)\})")
_NEXT: Final = {"error": ("connect",), "timeout": ("timeout",)} | {
    f"http_{status}": (status,) for status in ("429", "500", "502", "503", "504")
}


def policy_of(balancer: Directive | None, keep: bool, notes: Notes) -> tuple[Any, str]:
    """(the option `policy`, None for its default; a comment for the file)"""
    name = balancer.name if balancer is not None else "round robin"
    args = balancer.args if balancer is not None else ()
    if balancer is not None and name == "ip_hash":
        notes.changed(
            balancer, "is prefix_hash here: prompts that begin alike, such as one conversation's, go to one backend"
        )
        return "prefix_hash", (
            "nginx had ip_hash, and Fairlead hashes no addresses. What a client was kept at one server for is its "
            "conversation's prefix, and prefix_hash keeps that at one backend."
        )  # fmt: skip
    if balancer is not None and name in ("hash", "sticky"):
        return _by_key(balancer, args, notes)
    kept = {
        "round robin": "round_robin",
        "least_conn": "least_connections",
        "least_time": "latency",
        "random": "power_of_two" if "two" in args else "random",
    }[name]
    if keep:
        return kept, f"nginx had {name}"
    return None, (
        f"nginx had {name}: write `policy: {kept}` for that. expected_completion (the default) sends a request to "
        "the backend that will finish it soonest."
    )


def _by_key(balancer: Directive, args: tuple[str, ...], notes: Notes) -> tuple[Any, str]:
    key = args[0].partition(" ")[0] if args else ""  # crossplane runs on over the blank after ${name}
    if balancer.name == "sticky":
        if key == "cookie" and len(args) > 1:
            notes.changed(balancer, "is the session policy here: Fairlead reads the cookie and sets none itself")
            return _session({"cookie": args[1]}, balancer, notes)
        notes.left_out(balancer, "is neither `sticky cookie` nor a key; a session is named by a header or a cookie")
        return None, f"nginx had {balancer}"
    if match := _HEADER_KEY.fullmatch(key):
        return _session({"header": (match[1] or match[2]).replace("_", "-")}, balancer, notes)
    if match := _COOKIE_KEY.fullmatch(key):
        return _session({"header": None, "cookie": match[1] or match[2]}, balancer, notes)
    notes.changed(balancer, "is prefix_hash here: the key is the beginning of the prompt")
    return "prefix_hash", (
        f"nginx had `{balancer}` Fairlead has two keys: the beginning of the prompt (prefix_hash), and the name of a "
        "session in a header, a cookie or the body (session)."
    )


def _session(source: dict[str, str | None], balancer: Directive, notes: Notes) -> tuple[Any, str]:
    if "header" not in source:
        source = {"header": None, **source}
    name = next(value for value in source.values() if value)
    try:
        values.fitting("policy.cookie", name)
    except UnitError:
        notes.left_out(balancer, "names no header or cookie that could be one")
        return None, f"nginx had {balancer}"
    notes.built_in(balancer, "is the session policy here")
    return {"name": "session"} | source, f"nginx had `{balancer}`; requests of one session go to one backend"


def retries_of(scope: Scope, notes: Notes) -> dict[str, Any]:
    """The group `retries`, as far as the place says something."""
    made: dict[str, Any] = {}
    conditions = scope.one("proxy_next_upstream")
    if conditions is not None and "off" in conditions.args:
        return {"attempts": 0}
    if conditions is not None:
        on: list[str] = []
        for word in conditions.args:
            if word in _NEXT:
                on += [each for each in _NEXT[word] if each not in on]
            elif word == "invalid_header":
                notes.built_in(conditions, "(invalid_header): an answer that is not HTTP counts as `connect`")
            elif word == "non_idempotent":
                notes.built_in(conditions, "(non_idempotent): generating and embedding may be asked for again anyway")
            else:
                notes.left_out(conditions, f"({word}): is the engine's answer, and passed on")
        if "error" in conditions.args and "timeout" not in conditions.args:
            notes.changed(conditions, "(error): breaking connections count as `connect`; slow ones would be `timeout`")
        made["on"] = [int(each) if each.isdigit() else each for each in on]
    for name, key, zero in (
        ("proxy_next_upstream_tries", "attempts", "0 lifts the limit in nginx, and here there always is one"),
        ("proxy_next_upstream_timeout", "window", "0 lifts the limit in nginx, and here there always is one"),
    ):
        line = scope.one(name)
        if line is None or not line.args:
            continue
        try:
            value = values.whole(line.args[0]) if key == "attempts" else values.seconds(line.args[0])
        except UnitError as error:
            notes.left_out(line, f"could not be read: expected {error}")
            continue
        if value == 0:
            notes.left_out(line, zero)
            continue
        path = f"retries.{key}"
        wanted = value - 1 if key == "attempts" else value  # nginx counts the first try
        kept, is_same = values.limited(path, wanted)
        made[key] = values.plain(path, kept)
        if not is_same:
            notes.changed(line, f"is {made[key]} here, the nearest that {path} may be")
    return made
