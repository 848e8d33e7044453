"""How fast is each backend, at prefill and at decode?

Tokens per second alone mislead: an engine that batches makes more of them the more it is given. So the time that a
request took is held against the time that a reference machine would have needed under the same load (costs.py).
Two factors per backend, since machines differ unequally in compute (prefill) and memory bandwidth (decode):

    slowdown = (observed + prior * g) / (predicted + prior)

ratios of decayed sums, shrunk to the fleet's mean g by a prior worth a few requests: a ratio of sums does not swing as
a mean of ratios would. Three things make it quick without making it nervous:
- what the last few requests say replaces the sums when it differs much from them (speed.py);
- a request that is overdue counts before it ends (censored observation): a backend that freezes or crawls is
  known to be slow within seconds;
- evidence fades with time, so that a backend that was slow is tried again.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil, exp

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.costs import BUDGET, FULL_CHUNK, prefill_seconds, step_seconds
from fairlead.core.cluster.ledger import NANO, Lease
from fairlead.core.cluster.speed import Speed

MEMORY_SECONDS = 60.0  # e-folding time of what was learned
PRIOR_REQUESTS = 5.0  # requests of average size that the fleet's mean is worth
DOUBT = 1.2  # a slowdown up to this many times the fleet's mean (or its inverse) is taken for chance
LEAST = 1e-3  # no machine is a thousand times faster than the reference
OVERDUE = 2.0  # a request is overdue at so many times its predicted time,
GRACE_SECONDS = 0.25  # and so much more
LONG_ANSWER = 4.0  # few answers are longer than so many times the expected length


class Speeds:
    """Learns from requests and writes the backends' slowdowns, speed and capacity."""

    __slots__ = ("_refreshed_at", "decode_mean", "prefill_mean", "request_decode", "request_prefill", "samples")

    def __init__(self) -> None:
        self.prefill_mean = 1.0  # g of the fleet: observed over predicted seconds
        self.decode_mean = 1.0
        self.request_prefill = 0.0  # decayed sums of predicted seconds over requests
        self.request_decode = 0.0
        self.samples = 0.0
        self._refreshed_at = float("-inf")

    def first_token(self, lease: Lease, now: float) -> None:
        """A stream's first token came: its prefill is over."""
        lease.backend.latency.observe(now - lease.opened_at, now)
        if not lease.prompt_tokens:
            return
        began = max(lease.opened_at, lease.previous_first_token_at)  # prefills of one engine go one after the other
        lease.backend.prefill.add(max(now - began, 0.0), prefill_of(lease), now)

    def overtaken(self, lease: Lease, now: float) -> None:
        """A request was taken away before its answer began, as another backend was sooner: it took so long at least."""
        if lease.first_token_at is not None or not lease.facts.stream or not lease.prompt_tokens:
            return
        backend = lease.backend
        backend.latency.observe(now - lease.opened_at, now)
        waited, usual = now - max(lease.opened_at, backend.last_first_token_at), prefill_of(lease)
        if waited > backend.prefill_slowdown * usual:  # else it tells nothing
            backend.prefill.add(waited, usual, now)

    def close(self, lease: Lease, output_tokens: int, cached_tokens: int | None, now: float) -> None:
        """Learn from a request that ended well at `now`; `cached_tokens` as the engine told, None if it did not."""
        backend = lease.backend
        # The load changes while it decodes: the mean of what it found and what it leaves.
        step = (lease.predicted_step + step_seconds(backend.kv_tokens, backend.decoding)) / 2
        prefill = prefill_of(lease) if lease.prompt_tokens else 0.0
        first = lease.first_token_at
        if cached_tokens is not None and cached_tokens != lease.cached and prefill:
            # The prediction held was for what we thought cached: mend it, or hits would look like a fast machine.
            known = min(cached_tokens, lease.prompt_tokens - 1)
            uncached = lease.prompt_tokens - known
            mended = prefill_seconds(uncached, known) + ceil(uncached / BUDGET) * lease.predicted_step
            if first is not None:
                backend.prefill.mend(mended - prefill, first, exp((first - now) / MEMORY_SECONDS))
            prefill = mended
        decode = max(output_tokens / lease.facts.n - 1, 0) * step  # parallel completions share their steps
        if first is None:
            backend.latency.observe(now - lease.opened_at, now)
        if first is not None:
            if decode:
                backend.decode.add(now - first, decode, now)
        elif prefill + decode:
            # An answer in one piece: nobody saw when the prompt was done, the whole time (its wait too) is shared out.
            ratio = (now - lease.opened_at) / (prefill + decode)
            if prefill:
                backend.prefill.add(ratio * prefill, prefill, now)
            if decode:
                backend.decode.add(ratio * decode, decode, now)
        self.request_prefill = self.request_prefill * 0.99 + prefill
        self.request_decode = self.request_decode * 0.99 + decode
        self.samples = self.samples * 0.99 + 1.0

    @property
    def mean_prefill(self) -> float:
        """Predicted prefill seconds of an average request."""
        return self.request_prefill / self.samples if self.samples else 0.0

    def refresh(self, backends: Collection[Backend], now: float) -> None:
        """Forget a little and work out all factors; by the balancer's tick, not per request."""
        before = self._refreshed_at if self._refreshed_at > float("-inf") else now
        fade = exp(-max(now - before, 0.0) / MEMORY_SECONDS)
        self._refreshed_at = now
        if self.samples:
            prior_prefill = PRIOR_REQUESTS * self.request_prefill / self.samples
            prior_decode = PRIOR_REQUESTS * self.request_decode / self.samples
            for b in backends:
                b.prefill.judge(self.prefill_mean, now)
                b.decode.judge(self.decode_mean, now)
            self.prefill_mean = _mean([b.prefill for b in backends], prior_prefill, self.prefill_mean)
            self.decode_mean = _mean([b.decode for b in backends], prior_decode, self.decode_mean)
            prior = prior_prefill + prior_decode
            # A mean request on a mean machine: what `slowdown` is measured against.
            usual = prior_prefill * self.prefill_mean + prior_decode * self.decode_mean
            for b in backends:
                prefill = _shrunk(b.prefill, prior_prefill, self.prefill_mean)
                decode = _shrunk(b.decode, prior_decode, self.decode_mean)
                b.price = None
                b.prefill_slowdown = _without_doubt(prefill, self.prefill_mean)
                b.decode_slowdown = _without_doubt(decode, self.decode_mean)
                if prior:
                    b.slowdown = (prior_prefill * prefill + prior_decode * decode) / usual
                b.prefill.fade(fade)
                b.decode.fade(fade)
        weighted = any(b.weight_set for b in backends)
        for b in backends:
            # A weight that somebody set says what to believe; learned speeds serve those who set none.
            b.speed = 1.0 if weighted else 1.0 / b.slowdown
            b.capacity = b.weight if weighted else b.speed
            if b.signals.speed != max(b.prefill.at, b.decode.at):
                b.heard()  # from here on it counts

    def watch(self, backends: Collection[Backend], now: float) -> None:
        """Count what is overdue before it ends; each tick."""
        for b in backends:
            if not b.inflight:
                if b.overdue != 1.0:
                    b.overdue, b.price = 1.0, None
                continue
            slow = 1.0
            if b.unstarted:
                # The oldest stream: of answers in one piece nobody sees where they are.
                head = next((lease for lease in b.unstarted if lease.facts.stream), None) or next(iter(b.unstarted))
                waited = now - max(head.opened_at, b.last_first_token_at)
                usual = b.prefill_slowdown * (prefill_of(head) if head.prompt_tokens else FULL_CHUNK)
                if not head.facts.stream:
                    usual += b.decode_slowdown * longest_answer(head) * head.predicted_step
                if waited > OVERDUE * usual + GRACE_SECONDS:
                    slow = waited / usual
            elif b.decoding:
                silent = now - max(b.progress_at, b.last_first_token_at)
                usual = b.prefill_slowdown * FULL_CHUNK
                if silent > OVERDUE * usual + GRACE_SECONDS:
                    slow = silent / usual
            if slow != b.overdue:
                b.overdue, b.price = slow, None


def prefill_of(lease: Lease) -> float:
    """Predicted seconds of a request's prefill beside the decodes that it found."""
    return lease.work / NANO + ceil(max(lease.uncached, 1) / BUDGET) * lease.predicted_step


def longest_answer(lease: Lease) -> float:
    """Tokens that its answer may well have."""
    limit = lease.facts.max_tokens
    return limit if limit is not None else LONG_ANSWER * lease.output_expected / lease.facts.n


def _mean(speeds: Collection[Speed], prior: float, otherwise: float) -> float:
    """The fleet's ratio. Each backend counts about once, however much traffic it gets; one of which little is known
    (any more) counts little, or one bad moment long ago would be held against it for ever."""
    known = [(s.observed / s.predicted, s.predicted / (s.predicted + prior)) for s in speeds if s.predicted > 0.0]
    evidence = sum(weight for _, weight in known)
    return max(sum(ratio * weight for ratio, weight in known) / evidence, LEAST) if evidence else otherwise


def _shrunk(speed: Speed, prior: float, mean: float) -> float:
    total = speed.predicted + prior
    return max((speed.observed + prior * mean) / total, LEAST) if total else mean


def _without_doubt(slowdown: float, mean: float) -> float:
    """What lies within DOUBT of the mean is the mean: chance among equal machines must not make a favourite."""
    return max(slowdown / DOUBT, mean) if slowdown > mean else min(slowdown * DOUBT, mean)
