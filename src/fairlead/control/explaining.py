"""Why did a request go there, and what came of it? The whole story of one record, as plain JSON-able data.

Rule 1: what was true at the moment of the choice is told from what the lease kept of it, never from what is true now.
Rule 2: `decision_of` and `after` read nothing but the record, so that a thread may ask them (decision_log.py).
Rule 3: no text of a prompt and no name of a session, only whether there was one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from fairlead.control.words import in_words, score_means, seconds
from fairlead.core.cluster.backend import Backend, Signals
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.standing import state_of
from fairlead.core.hedge import FAILED, LOST, WON
from fairlead.core.model import Facts
from fairlead.proxy.hedge import Told
from fairlead.proxy.record import Record

MAX_ROWS: Final = 64  # candidates shown in an explanation; the best ones of a larger fleet
FIRST_TOKEN: Final = "first token after, s"  # noqa: S105 -- the term that predicts it

Row = dict[str, Any]


def number(value: float | None, digits: int = 6) -> float | None:
    """JSON has no infinities."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def summary(record: Record, wall: float) -> Row:
    """How the request went, in a row; it came at `wall`, in unix time."""
    return {
        "id": record.request_id,
        "time": round(wall, 3),
        "method": record.method,
        "path": record.path,
        "model": record.model,
        "backend": record.backend,
        "reason": record.lease.choice.reason if record.lease is not None else None,
        "status": record.status,
        "outcome": record.outcome,
        "error": record.error or None,
        "tries": record.tries,
        "failed_on": list(record.tried),
        "hedged": record.hedge is not None,
        "hedge": record.hedge._asdict() if record.hedge is not None else None,
        "ttft": number(record.ttft),
        "duration": number(record.duration),
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
    }


def asked(record: Record, wall: float) -> Row:
    """The same of one that is looked at closely."""
    return {**summary(record, wall), "stream": record.stream, "config_version": record.version}


# --- the choice ----------------------------------------------------------------------------------------------------


def decision_of(record: Record, lease: Lease, most: int = MAX_ROWS, *, words: bool = True) -> Row:
    """What the policy saw and chose, and who could not be had at that moment; `words`: sentences, too."""
    policy, facts = lease.policy, lease.facts
    name = policy.name if policy is not None else ""
    rows = _candidates(lease, most)
    if words:
        for row in rows:
            row["words"] = in_words(name, row["terms"])
    return {
        "policy": name,
        "backend": lease.backend.id,
        "reason": lease.choice.reason,
        "candidates": rows,
        "not_considered": _out(record, lease)[:most],
        "lower_score_is_better": True,
        "score_means": score_means(name),
        "shadow": _opinion(lease),
        "estimate": {
            "kind": facts.kind,
            "prompt_bytes": facts.prompt_bytes,
            "prompt_tokens": facts.prompt_ids or None,
            "prompt_tokens_expected": lease.prompt_tokens,
            "cached_tokens_expected": lease.cached,
            "output_tokens_expected": lease.output_expected,
            "max_tokens": facts.max_tokens,
            "session": facts.session is not None,
            "hashed_bytes": facts.span,
        },
    }


def _candidates(lease: Lease, most: int) -> list[Row]:
    """The chosen one first, then the best by score."""
    choice, backends = lease.choice, lease.candidates
    scores, terms_of = choice.scores, choice.terms
    names = lease.policy.term_names if lease.policy is not None else ()
    places = sorted(range(len(backends)), key=lambda i: (i != choice.index, scores[i] if i < len(scores) else math.inf))
    rows = []
    for i in places[:most]:
        row = terms_of[i] if i < len(terms_of) else ()
        terms = {name: number(value) for name, value in zip(names, row, strict=False)}
        rows.append({
            "backend": backends[i].id,
            "score": number(scores[i]) if i < len(scores) else None,
            "terms": terms,
            "signals": _ages(lease.signals[i], lease.opened_at),
            "chosen": i == choice.index,
        })  # fmt: skip
    return rows


def _ages(signals: Signals, at: float) -> Row:
    """How old was what we knew? None: nothing had been heard yet."""
    return {f"{name}_age": number(max(at - heard, 0.0), 3) for name, heard in signals._asdict().items()}


def _out(record: Record, lease: Lease) -> list[Row]:
    """Who could not be had, whatever the request; and who had had it before."""
    seen = {b.id for b in lease.candidates}
    rows = {}
    for id in record.tried:
        if id != lease.backend.id:
            rows[id] = _row(id, "tried", "it had failed this request before")
    hedge = record.hedge
    if hedge is not None and lease.backend.id == hedge.second:
        rows.setdefault(hedge.first, _row(hedge.first, "late", "it was asked first, and had not begun to answer"))
    for id, state, reason in lease.out:
        rows.setdefault(id, _row(id, state, reason))
    return [row for id, row in rows.items() if id not in seen]


def _row(id: str, state: str, reason: str) -> Row:
    return {"backend": id, "state": state, "reason": reason}


def left_out(rows: list[Row], lease: Lease, fleet: Iterable[Backend], now: float) -> list[Row]:
    """The same, with those that this request could not have, and with how each is now."""
    told = {row["backend"]: row for row in rows}
    seen = {b.id for b in lease.candidates}
    found = []
    for backend in fleet:
        if backend.id not in seen:
            row = told.pop(backend.id, None) or _row(backend.id, *_unfit(backend, lease.facts))
            found.append({**row, "state_now": state_of(backend, now)[0]})
    return found + [{**row, "state_now": "gone"} for row in told.values()]


def _unfit(backend: Backend, facts: Facts) -> tuple[str, str]:
    """Why was one that was well no candidate for this request?"""
    if not backend.serves(facts.model):
        return "other_model", "it does not serve the model"
    if facts.group is not None and backend.id not in facts.group:
        return "other_route", "the request's route does not lead there"
    if backend.backup:
        return "backup", "a backup: it is asked when no other can be had"
    if backend.max_connections is not None:
        return "full", "it was at its connection limit, or came later"
    if backend.passive.ramping:
        return "returning", "slow start: it had got its part of the requests"
    return "unknown", "at that moment it was not usable, or not there yet"


def _opinion(lease: Lease) -> Row | None:
    """What the shadow would have done with this request."""
    opinion = lease.opinion
    if opinion is None:
        return None
    return {
        "policy": opinion.policy.name,
        "backend": lease.candidates[opinion.wanted].id,
        "agrees": opinion.wanted == lease.choice.index,
        "predicted_ttft": {"policy": number(opinion.chosen_seconds), "shadow": number(opinion.shadow_seconds)},
    }


# --- what came of it ------------------------------------------------------------------------------------------------


def after(record: Record, lease: Lease, *, words: bool = True) -> Row:
    """What happened after the choice that is told: predicted and real; `words`: in sentences, too."""
    predicted = _predicted(lease)
    first = None if lease.first_token_at is None else lease.first_token_at - lease.opened_at
    resumed = record.ttft is not None and lease.opened_at > record.arrived + record.ttft
    told = {
        "attempts": _attempts(record, lease),
        "resumed": resumed,
        "chosen_after": number(max(lease.opened_at - record.arrived, 0.0)),
        "first_token_predicted": number(predicted),
        "first_token_real": number(first),
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "outcome": record.outcome,
    }
    return {**told, "words": _after_in_words(record, lease, told)} if words else told


def _predicted(lease: Lease) -> float | None:
    """Seconds to the first token, where the policy or its shadow has predicted them."""
    names = lease.policy.term_names if lease.policy is not None else ()
    if FIRST_TOKEN in names and lease.choice.index < len(lease.choice.terms):
        return lease.choice.terms[lease.choice.index][names.index(FIRST_TOKEN)]
    return None if lease.opinion is None else lease.opinion.chosen_seconds


def _attempts(record: Record, lease: Lease) -> list[Row]:
    """Which backends had it, and how that ended: failures in their order, then who was overtaken, then the last."""
    rows = [{"backend": id, "result": "failed"} for id in record.tried]
    hedge, last = record.hedge, lease.backend.id
    if hedge is not None:
        other = hedge.first if last == hedge.second else hedge.second
        if other not in record.tried:
            rows.append({"backend": other, "result": "overtaken"})
    if not (record.tried and record.tried[-1] == last):
        rows.append({"backend": last, "result": record.outcome})
    return rows


def _after_in_words(record: Record, lease: Lease, told: Row) -> list[str]:
    said = []
    for row in told["attempts"]:
        ended = {"failed": "failed it", "overtaken": "was overtaken by another and let go of", "ok": "answered it"}
        said.append(f"{row['backend']} {ended.get(row['result'], 'had it when it ended: ' + row['result'])}")
    if told["resumed"]:
        said.append(f"the stream had begun elsewhere and went on at {lease.backend.id}")
    real, predicted = told["first_token_real"], told["first_token_predicted"]
    if real is not None:
        what = f"its first token came after {seconds(real)}"
        said.append(what if predicted is None else f"{what}; {seconds(predicted)} were predicted")
    if record.cached_tokens is not None:
        said.append(f"the engine found {record.cached_tokens:,} prompt tokens in its cache; {lease.cached:,} expected")
    if record.output_tokens is not None:
        said.append(f"it produced {record.output_tokens:,} tokens; {lease.output_expected:,} expected")
    error = f" ({record.error})" if record.error else ""
    said.append(f"it ended with status {record.status}, {record.outcome}{error}, after {seconds(record.duration)}")
    return said


def sentence(record: Record, lease: Lease) -> str:
    """All of it in one."""
    name = lease.policy.name if lease.policy is not None else ""
    chosen = f"{name} chose {lease.backend.id} out of {len(lease.candidates)}: {lease.choice.reason}"
    return chosen + (_hedge_told(record.hedge) if record.hedge is not None else "")


def _hedge_told(hedge: Told) -> str:
    """How the race went. As the end of a sentence."""
    what = {WON: "which answered first", LOST: "but answered first itself", FAILED: "which failed"}
    end = what.get(hedge.outcome, "and neither had answered when the request ended")
    return f"; {hedge.first} was late, so {hedge.second} was asked as well, {end}"
