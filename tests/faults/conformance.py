"""A payload of the shared table against a running fleet: does it meet its fate, and no other?

Status, connection, what the engines saw, the reason that is counted and logged, the shape of the error; and that the
next client is served as if nothing had been. Used by test_conformance_*.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from bench.conformance.payloads import HOST, PAYLOADS, Payload
from oracle import CANARY_FIELDS, Oracle, Verdict
from peers import until
from running import Fleet, raw

EARLY = (200, 204, 304)  # statuses that an engine gives


def of_case(*cases: int) -> list[Payload]:
    return [payload for payload in PAYLOADS if payload.case in cases]


def spoken(payload: Payload, nonce: str) -> bytes:
    """Its bytes, with a key in them that must not turn up anywhere."""
    data = payload.sent.replace(b"%NONCE", nonce.encode())
    return data.replace(HOST, HOST + CANARY_FIELDS.encode(), 1)


async def fate(f: Fleet, oracle: Oracle, payload: Payload, pieces: Sequence[int] = ()) -> str:
    """What is wrong with the way it was met; "" when nothing is."""
    nonce = oracle.nonce()
    seen, refusals, errors = len(f.seen), Counter(f.app.recorder.refusals), Counter(f.app.recorder.errors)
    if payload.said:
        f.play.scripts = [raw(payload.said)]
    method = "HEAD" if payload.sent.startswith(b"HEAD") else "POST"
    served = [status for status in payload.statuses if status in EARLY]
    try:
        verdict = await oracle.speak(
            spoken(payload, nonce),
            [nonce] * len(served),
            count=len(payload.statuses),
            method=method,
            closed=payload.closed,
            pieces=pieces,
        )
    except AssertionError as problem:
        return str(problem)
    if (wrong := _answers(payload, verdict)) or (wrong := _books(f, payload, refusals, errors)):
        return wrong
    new = f.seen[seen:]
    if not payload.closed:  # the request behind it, that shows the connection to be alive
        new = new[:-1]
    if len(new) != payload.seen:
        return f"the engine saw {[request.head for request in new]}"
    if any(b"evil" in request.head for request in new):
        return f"the engine was told what it must not hear: {new[0].head!r}"
    if not payload.kept:
        peer = f.engines[0].peers[new[0].connection]
        await until(lambda: peer.over, "the connection to the engine is closed")
        if not payload.closed and f.seen[-1].connection == new[0].connection:
            return "the connection to the engine was used again"
    return ""


def _answers(payload: Payload, verdict: Verdict) -> str:
    *first, last = verdict.statuses
    if tuple(first) != payload.statuses[:-1] or last not in (payload.statuses[-1], *payload.also):
        return f"statuses {verdict.statuses}"
    if verdict.rest or verdict.reset:
        return f"then {verdict.rest!r}, {'a reset' if verdict.reset else 'a close'}"
    answer = verdict.answers[-1]
    if payload.closed and answer.field("connection") != "close":
        return "it is not said that the connection closes"
    if payload.reason:
        error = json.loads(answer.body)["error"]
        if set(error) != {"message", "type", "code", "param"} or not error["message"]:
            return f"error {error}"
        if error["code"] != payload.reason:
            return f"code {error['code']}"
    if not answer.field("x-request-id") or any(b"evil" in answer.raw for answer in verdict.answers):
        return f"answer {answer.raw!r}"
    return "" if answer.status != 405 or answer.field("allow") else "405 without Allow"


def _books(f: Fleet, payload: Payload, refusals: Counter[str], errors: Counter[tuple[str, str]]) -> str:
    """The counted reason; the logged ones are compared with these when the fleet is left."""
    refused = dict(Counter(f.app.recorder.refusals) - refusals)
    failed = [kind for _, kind in Counter(f.app.recorder.errors) - errors]
    if payload.reason == "bad_response":
        return "" if (refused, failed) == ({}, ["bad_response"]) else f"refused {refused}, failed {failed}"
    expected = {payload.reason: 1} if payload.reason else {}
    return "" if (refused, failed) == (expected, []) else f"refused {refused}, failed {failed}"
