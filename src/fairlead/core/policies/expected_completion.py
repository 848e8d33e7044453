"""`expected_completion`, the default: where will the first token come soonest, and everybody be done soonest?

For every candidate, in seconds:

    first   = own time to the first token: prefill work queued there (what others than us put there, too) and the
              prefill of what is not cached, both slowed by the decodes that share the steps
    others  = the stall that the own prefill causes to every stream decoding there, and the time by which the own
              tokens lengthen each of their steps
    decode  = own decode time: expected output tokens times the step that it would find
    score   = first + price * (others + decode)

All of it on a reference machine (cluster/costs.py) times the backend's own learned slowdowns, for prefill and
decode apart (cluster/speeds.py). `price` is the one dial: what a second of everybody's time is worth against a second
of waiting for the first token. It rises where every backend has a queue: then the work done in all decides how long
everybody waits. Nothing here is scraped but the load of other balancers. docs/policies.md has where the
formula comes from, what each term earns, and where it loses.
"""

from __future__ import annotations

from fairlead.core.cluster.backend import Backend, Price
from fairlead.core.cluster.costs import ATTENTION, BASE, FULL_CHUNK, KV, SEQ, TOKEN
from fairlead.core.cluster.foreign import freshness
from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest

TOP_PRICE = 0.4  # at `throughput` 1
STALL_CAP = 16.0  # most streams whose stall counts: small models decode hundreds, which would swamp the first token
CREDIT = 0.9  # most of the head's prefill that may be taken for done
CROWDED = 0.1  # seconds of prefill queued even at the least loaded backend: from here on the price rises
NEVER = float("inf")
NEAR = 1.02  # scores up to this many times the best are as good
NANO = 1e-9


class ExpectedCompletion:
    name = "expected_completion"
    term_names = (
        "prompt tokens cached",
        "prefill queued, s",
        "own prefill, s",
        "first token after, s",
        "delay to others, s",
        "decoding, s",
        "prefill slowdown",
        "decode slowdown",
        "price of others' and decode time",
    )
    needs_prefixes = True

    def __init__(self, throughput: float = 0.5) -> None:
        """`throughput`, 0..1: 0 cares for the first token only, 1 for the work done in all; see docs/policies.md."""
        self.price = TOP_PRICE * throughput**3

    def choose(self, facts: Facts, view: View) -> Choice:
        now, prompt, price = view.now, view.prompt, self.price
        output = view.output if facts.n == 1 else view.output // facts.n  # answers in parallel take no longer
        grown = KV * (prompt + output / 2) + SEQ  # what the request adds to every step while it decodes
        firsts: list[float] = []  # seconds to the first token
        others: list[float] = []  # seconds of everybody's time
        rows: list[tuple[int, float, float, Price]] = []
        before, own, soonest = -1, 0.0, NEVER
        for b, cached in zip(view.backends, view.cached):  # noqa: B905 -- made in line, and this is the hot path
            if cached != before:  # most candidates have the same
                before = cached
                uncached = prompt - cached if prompt > cached else 1
                own = TOKEN * uncached + ATTENTION * uncached * (cached + uncached / 2)
            state = b.price or _state(b)
            prefill, stalled, crowd, decode, slow, _, queued, since, most, weight, is_foreign = state
            if queued:
                done = (now - since) / slow
                queued -= done if done < most else most
                if queued < 0.0:
                    queued = 0.0
            if is_foreign:
                state, waiting = _with_foreign(b, now, prompt)
                prefill, stalled, crowd, decode, *_ = state
                queued += waiting * own
            rows.append((cached, queued, own, state))
            wait = prefill * queued
            if wait < soonest:
                soonest = wait
            firsts.append((wait + prefill * own) / weight)
            others.append((stalled * own + output * (crowd * grown + decode)) / weight)
        if soonest > CROWDED:  # everybody has a queue: what is done in all decides how long it gets
            price *= 1.0 + soonest
        scores = [first + price * other for first, other in zip(firsts, others)]  # noqa: B905
        chosen = lowest(scores, view, NEAR)
        return Choice(
            chosen, "first token soonest, everybody's time counted", scores, Terms(rows, output, grown, price)
        )


class Terms:
    """Works out the terms of a decision when somebody asks for them."""

    __slots__ = ("_grown", "_output", "_price", "_rows")

    def __init__(self, rows: list[tuple[int, float, float, Price]], output: int, grown: float, price: float) -> None:
        self._rows, self._output, self._grown, self._price = rows, output, grown, price

    def __call__(self) -> list[tuple[float, ...]]:
        output, grown = self._output, self._grown
        return [
            (
                cached, queued, own, prefill * (queued + own), stalled * own + output * crowd * grown,
                output * decode, slow, pace, self._price,
            )
            for cached, queued, own, (prefill, stalled, crowd, decode, slow, pace, *_) in self._rows
        ]  # fmt: skip


def first_token_after(b: Backend, now: float, prompt: int = 0, own: float = 0.0) -> float:
    """Seconds until all that is queued there has its first token, and then a prompt of `own` seconds of prefill."""
    prefill, _, _, _, slow, _, queued, since, most, _, is_foreign = b.price or _state(b)
    if queued:
        queued = max(queued - min((now - since) / slow, most), 0.0)
    if is_foreign:
        (prefill, *_), waiting = _with_foreign(b, now, prompt)
        queued += waiting * own
    return prefill * (queued + own)


def _state(b: Backend) -> Price:
    """As the ledger, the readings and the learned speeds have it; kept until one of them changes."""
    b.price = state = _of(b, b.decoding, b.kv_tokens, len(b.unstarted))
    return state


def _of(b: Backend, decoding: float, kv_tokens: float, waiting: float) -> Price:
    step = BASE + KV * kv_tokens + SEQ * decoding
    slow, pace = b.prefill_slowdown * b.overdue, b.decode_slowdown * b.overdue
    since = most = 0.0
    if b.unstarted:
        head = next(iter(b.unstarted))
        since, most = max(head.opened_at, b.last_first_token_at), CREDIT * NANO * head.work
    return (
        slow * (1.0 + step / FULL_CHUNK), slow * min(decoding, STALL_CAP), pace * (decoding + waiting), pace * step,
        slow, pace, b.prefill_work * NANO, since, most, b.weight, bool(b.foreign_running or b.foreign_waiting),
    )  # fmt: skip


def _with_foreign(b: Backend, now: float, prompt: int) -> tuple[Price, float]:
    """The same with the load of other balancers, and how many of their requests wait before ours."""
    fresh = freshness(b, now)
    running, waiting = fresh * b.foreign_running, fresh * b.foreign_waiting
    mean = b.kv_tokens / b.decoding if b.decoding else prompt
    state = _of(b, b.decoding + running, b.kv_tokens + running * mean, len(b.unstarted) + waiting)
    return state, waiting
