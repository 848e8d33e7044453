"""The brain's only door: one method per event in the life of a request, a backend or a reading.

Synchronous, deterministic, no I/O and no clock: `now` and the random source come in as arguments. Every host
(the proxy, the simulator, the Envoy picker) drives this same object, so all of them decide alike.

    assign -> Lease | Refusal          a request wants a place (again, after a failure: pass what was tried)
    first_token, settle, finish        how it went; `finish` may be called on every path, the first call counts
    add, remove, set_models, ...       the fleet changes
    set_policy, set_shadow             another policy decides from now on, or is asked what it would have done
    probe, poll_started, poll_result   what checks and scrapes found
    tick                               once in a while (100 ms is good): learned values are refreshed
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from xxhash import xxh3_64_intdigest

from fairlead.core.cluster import readings
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.cache import CacheView
from fairlead.core.cluster.candidates import RETRY_AFTER, Candidates, has_room
from fairlead.core.cluster.costs import step_seconds
from fairlead.core.cluster.learning import learn
from fairlead.core.cluster.ledger import Lease, Ledger
from fairlead.core.cluster.speeds import Speeds
from fairlead.core.cluster.tokens import TokenEstimator
from fairlead.core.health.gate import admitted, passed, succeeded
from fairlead.core.health.outliers import Outliers
from fairlead.core.health.passive import OutlierRules, PassiveFailures
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.model import EngineStats, Facts, Kind, Refusal, Usage
from fairlead.core.retry import RetryBudget, RetryRules, may_retry
from fairlead.core.shadow import Opinion, Shadow
from fairlead.core.view import Policy, Rng, View

REFRESH_SECONDS = 0.5  # how often learned speeds are worked out anew
BUSY_SECONDS = 10.0  # an engine that gave a token in this time is alive, though its probes time out

OK: Final = "ok"  # an answer was delivered in full (any status that is not the backend's failure)
FAILED: Final = "failed"  # the backend failed the request
ERROR: Final = "error"  # it answered with a 5xx that is the request's own affair: counted, but no reason to rest it
CLIENT_GONE: Final = "client_gone"  # nobody's failure
REFUSED: Final = "refused"  # never placed, or given up; answered with an error of our own
ABANDONED: Final = "abandoned"  # given back without a verdict (shutdown, resend on a fresh connection)


class Balancer:
    """Chooses backends, keeps the ledger, judges health. Not thread-safe: one loop drives it."""

    def __init__(
        self,
        policy: Policy,
        rng: Rng,
        *,
        retry: RetryRules | None = None,
        rise: int = 2,
        fall: int = 3,
        max_fails: int = 3,
        fail_timeout: float = 30.0,
        outliers: OutlierRules | None = None,
    ) -> None:
        self.policy = policy
        self._rng = rng
        self.shadow: Shadow | None = None  # a second policy that is asked and never obeyed
        self.retry_rules = retry or RetryRules()
        self.budget = RetryBudget(self.retry_rules)
        self.ledger = Ledger()
        self.tokens = TokenEstimator()
        self.speeds = Speeds()
        self.cache = CacheView(self.tokens)
        self.backends: dict[str, Backend] = {}
        self._rise, self._fall = rise, fall
        self._max_fails, self._fail_timeout = max_fails, fail_timeout
        self._outlier_rules = outliers or OutlierRules()
        self._outliers = Outliers(self._outlier_rules)
        self._view = View(rng)
        self.uses_prefixes = policy.needs_prefixes  # are block hashes wanted in the facts?
        self._counts_cached = policy.needs_prefixes  # do leases leave out what is expected to be cached?
        self._refreshed_at = float("-inf")
        self._ticked_at = float("-inf")
        self._candidates = Candidates(self.backends, self._outlier_rules.max_ejected)

    # --- the fleet -------------------------------------------------------------------------------------------

    def add(
        self,
        id: str,
        *,
        weight: float | None = None,
        max_connections: int | None = None,
        models: frozenset[str] | None = None,
        backup: bool = False,
        enabled: bool = True,
    ) -> Backend:
        """A backend joins the list; it gets requests once a probe found it up. ValueError if the id is taken."""
        if id in self.backends:
            raise ValueError(f"backend {id!r} is there already")
        backend = Backend(
            id,
            seed=xxh3_64_intdigest(id.encode()),
            weight=weight,
            max_connections=max_connections,
            models=models,
            probes=ProbeCounter(self._rise, self._fall),
            passive=PassiveFailures(self._max_fails, self._fail_timeout, self._outlier_rules),
            shelf=self.cache.index.shelf(),
        )
        backend.backup, backend.enabled = backup, enabled
        self.backends[id] = backend
        self._candidates.changed()
        self._refreshed_at = float("-inf")
        return backend

    def adopt(self, backend: Backend) -> None:
        """One that was watched beside the fleet joins, with what its probes found. ValueError if the id is taken."""
        if backend.id in self.backends:
            raise ValueError(f"backend {backend.id!r} is there already")
        backend.shelf = self.cache.index.shelf()
        self.backends[backend.id] = backend
        self._candidates.changed()
        self._refreshed_at = float("-inf")

    def remove(self, id: str) -> None:
        """A backend leaves; requests that run there keep their leases to the end. KeyError if unknown."""
        self.cache.index.retire(self.backends.pop(id).shelf)
        if self.shadow is not None:
            self.shadow.forget(id)
        self._candidates.changed()

    def set_models(self, id: str, models: frozenset[str]) -> None:
        """What the backend was found to serve."""
        backend = self.backends[id]
        if backend.models != models:
            backend.models = models
            self._candidates.changed()

    def set_draining(self, id: str, draining: bool) -> None:
        """A draining backend gets no new requests."""
        self.backends[id].draining = draining
        self._candidates.changed()

    def set_enabled(self, id: str, enabled: bool) -> None:
        """A backend that is not enabled gets no requests, whatever its checks say (nginx: `down`)."""
        self.backends[id].enabled = enabled
        self._candidates.changed()

    def set_options(self, id: str, *, weight: float | None, max_connections: int | None, backup: bool) -> None:
        """What its operator says of it; what was learned stays. Capacities follow at the next tick."""
        backend = self.backends[id]
        backend.weight = 1.0 if weight is None else weight
        backend.weight_set = weight is not None
        backend.max_connections, backend.backup = max_connections, backup
        for each in self.backends.values():  # the first weight that is set, and the last that goes, change all
            each.price = None
        self._candidates.changed()
        self._refreshed_at = float("-inf")

    def set_retry(self, rules: RetryRules) -> None:
        """Other rules for retries; their budget begins anew where they differ."""
        if rules != self.retry_rules:
            overflows = self.budget.overflows
            self.retry_rules, self.budget = rules, RetryBudget(rules)
            self.budget.overflows = overflows

    def set_health(
        self, *, rise: int, fall: int, max_fails: int, fail_timeout: float, outliers: OutlierRules | None = None
    ) -> None:
        """Other limits for checks; what was counted so far stays."""
        if outliers is not None and outliers != self._outlier_rules:
            self._outlier_rules, self._outliers = outliers, Outliers(outliers)
            self._candidates.max_ejected = outliers.max_ejected
            for backend in self.backends.values():
                backend.passive.rules = outliers
            self._candidates.changed()
        self._rise, self._fall = rise, fall
        self._max_fails, self._fail_timeout = max_fails, fail_timeout
        for backend in self.backends.values():
            backend.probes.rise, backend.probes.fall = rise, fall
            backend.passive.max_fails, backend.passive.fail_timeout = max_fails, fail_timeout

    @property
    def models(self) -> frozenset[str]:
        """Every model that some backend serves, up or not."""
        return self._candidates.models

    def can_serve(self, now: float) -> bool:
        """Is there a backend that can take a request?"""
        return bool(self._candidates.of(None, None, now))

    # --- who decides -----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """Another policy decides from the next request on. What was learned of backends and models stays."""
        self.policy = policy
        if self.shadow is not None:
            self.shadow.begin()
        self._who_needs_prefixes()

    def set_shadow(self, shadow: Shadow | None) -> None:
        """From now on this policy is asked, too, and its answers are only counted. It changes no decision."""
        self.shadow = shadow
        self._who_needs_prefixes()

    def _who_needs_prefixes(self) -> None:
        before = self.uses_prefixes
        shadow = self.shadow
        self._counts_cached = self.policy.needs_prefixes
        # A shadow always needs them: its judge does.
        self.uses_prefixes = self._counts_cached or (shadow is not None and shadow.active)
        if before and not self.uses_prefixes:
            for backend in self.backends.values():  # what is not kept up to date must not be believed later
                self.cache.index.clear(backend.shelf)

    # --- checks and readings ---------------------------------------------------------------------------------

    def panics(self, now: float) -> dict[str, bool]:
        """By model: are so few of its backends usable that bad ones are tried?"""
        return {model: self._candidates.panics(model, now) for model in sorted(self._candidates.models)}

    def probe(self, id: str, ok: bool, reason: str = "", *, timed_out: bool = False) -> bool:
        """Take an active check's result; True when the backend went up or down by it.

        `timed_out`: it gave no answer at all. An engine that gives tokens meanwhile is busy, not down.
        """
        backend = self.backends[id]
        if timed_out and backend.up and backend.delivered_at > self._ticked_at - BUSY_SECONDS:
            return False
        doubtful = backend.probes.doubtful
        changed = backend.probes.observe(ok, reason, timed_out, self._ticked_at, planned=backend.draining)
        backend.heard()
        if backend.probes.doubtful != doubtful:
            self._candidates.changed()
        if changed:
            if backend.up:
                # Most likely another process than the one that failed, proven by checks: slow start, no trial.
                backend.passive.succeed(self._ticked_at, self._ticked_at)
            self._candidates.changed()
            if not backend.up:
                self.cache.lost(backend)  # an engine that comes back has a new, empty cache
        return changed

    def canary(self, id: str, sent_at: float, now: float, problem: str = "") -> None:
        """What became of the token that a host asked for itself, where it is the trial (see passive.py)."""
        passive = self.backends[id].passive
        if passive.fail(problem, sent_at, now, self._rng) if problem else passive.succeed(sent_at, now):
            self._candidates.changed()

    def trouble(self, id: str, what: str) -> None:
        """Those who watch it had trouble (one of TROUBLES); it is only counted."""
        if id in self.backends:
            self.backends[id].troubles[what] += 1

    def poll_started(self, id: str) -> int:
        """A scrape of the engine's metrics begins; hand the returned mark to `poll_result`."""
        return readings.begin(self.backends[id])

    def poll_result(self, id: str, mark: int, stats: EngineStats, now: float) -> None:
        """The scrape begun with `mark` answered. (One that failed has no result to give.)"""
        if id in self.backends:
            readings.take(self.backends[id], mark, stats, self.cache, now)

    def tick(self, now: float) -> None:
        """Settle running streams and refresh what was learned."""
        self._ticked_at = now
        settle = self.ledger.settle
        for lease in self.ledger.leases:
            if lease.produced != lease.settled:
                settle(lease)
                lease.backend.progress_at = now
        backends = self.backends.values()
        self.speeds.watch(backends, now)
        if now - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = now
            self.speeds.refresh(backends, now)
            self.cache.refresh(backends)
            if self._outliers.look(backends, self.ledger.leases, now, self._rng):
                self._candidates.changed()

    # --- requests --------------------------------------------------------------------------------------------

    def assign(
        self, facts: Facts, now: float, tried: Collection[str] = (), among: list[Backend] | None = None
    ) -> Lease | Refusal:
        """Choose a backend (of `among`) and open a lease; or say why not. `tried` come last."""
        candidates = among or self._candidates.of(facts.model, facts.group, now)
        if not candidates or (facts.model is None and facts.needs_model and not among):
            refusal = self._candidates.resolve(facts, now)
            if refusal is not None:
                return refusal
            candidates = self._candidates.of(facts.model, facts.group, now)
        if tried:
            fresh = [b for b in candidates if b.id not in tried]
            candidates = fresh or [b for b in self._candidates.reserves(facts, now) if b.id not in tried] or candidates
        else:
            self.budget.request(now)
        if self._candidates.capped:
            candidates = [b for b in candidates if has_room(b)] or [
                b for b in self._candidates.spares(facts, now) if has_room(b)
            ]
            if not candidates:
                message = "every backend is at its connection limit: try again soon"
                return Refusal(503, "at_capacity", message, RETRY_AFTER)
        gated = self._candidates.gated
        if gated:
            candidates = admitted(candidates, now, first=not tried, real=facts.kind != Kind.CHEAP)
        view = self._view
        view.backends, view.now = candidates, now
        prompt, output = view.prompt, view.output = self.tokens.estimate(facts)
        uses_prefixes = self.uses_prefixes
        if uses_prefixes:
            view.cached = self.cache.match(facts, prompt, candidates)
        choice = self.policy.choose(facts, view)
        backend = candidates[choice.index]
        opinion = None
        shadow = self.shadow
        if shadow is not None and shadow.active and len(candidates) > 1 and facts.kind != Kind.CHEAP:
            opinion = self._ask(shadow, facts, choice.index)
        cached = 0
        if uses_prefixes:
            cached = view.cached[choice.index]
            self.cache.sent(backend, facts, prompt, output)
        step = step_seconds(backend.kv_tokens, backend.decoding)
        # With a policy that knows no prefixes, loads are what they would be without a shadow beside it.
        counted = cached if self._counts_cached else 0
        lease = Lease(backend, facts, candidates, choice, prompt, output, counted, step, now)
        lease.policy, lease.opinion, lease.out = self.policy, opinion, self._candidates.out
        if uses_prefixes:
            lease.cached_raw = self.cache.raw(backend)  # what reports judge, with whatever policy
        self.ledger.open(lease)
        if gated:
            passed(lease, now)
        backend.placed += 1
        if len(candidates) > 1:
            backend.contested += 1
        return lease

    def first_token(self, lease: Lease, now: float) -> None:
        """The first byte of the answer's body came."""
        if self.ledger.first_token(lease, now):
            self.speeds.first_token(lease, now)
            self.cache.started(lease)

    def finish(
        self,
        lease: Lease,
        outcome: str,
        now: float,
        usage: Usage | None = None,
        reason: str = "",
        *,
        worked: bool = True,
    ) -> bool:
        """The request is over on this backend; False when that was said before.

        `reason` names a failure. `worked` is False for an answer that says no (4xx): it came without the work that was
        expected, so it tells nothing about speed and lengths.
        """
        if not self.ledger.close(lease):
            return False
        backend = lease.backend
        if backend.passive.trial is lease:
            backend.passive.trial = None
        if outcome == OK:
            backend.answered += 1
            if worked and lease.facts.kind != Kind.CHEAP:
                backend.answered_at = now
                learn(lease, now, usage, self.tokens, self.speeds, self.cache, reported=self.uses_prefixes)
            if succeeded(lease, now, worked=worked):
                self._candidates.changed()
        elif outcome == ERROR:
            backend.errors += 1
        elif outcome == FAILED:
            backend.errors += 1
            if backend.passive.fail(reason, lease.opened_at, now, self._rng):
                self._candidates.changed()
        return True

    def may_retry(
        self, lease: Lease, reason: str, tries: int, arrived: float, now: float, tried: Collection[str] = ()
    ) -> bool:
        """May a request that failed with `reason` be assigned again? Takes one retry out of the budget."""
        if not may_retry(self.retry_rules, reason, tries, now - arrived):
            return False
        failed, facts = lease.backend.id, lease.facts
        others = any(
            b.id != failed and b.id not in tried and has_room(b)
            for b in (*self._candidates.of(facts.model, facts.group, now), *self._candidates.reserves(facts, now))
        )
        return others and self.budget.take(now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _ask(self, shadow: Shadow, facts: Facts, chosen: int) -> Opinion | None:
        opinion = shadow.observe(facts, self._view, chosen)
        if opinion is None:
            self._who_needs_prefixes()  # that may have been its last error
        return opinion
