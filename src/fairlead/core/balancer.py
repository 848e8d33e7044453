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

from collections.abc import Collection, Iterable
from typing import Final

from xxhash import xxh3_64_intdigest

from fairlead.core.cluster import foreign
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.cache import CacheView
from fairlead.core.cluster.costs import step_seconds
from fairlead.core.cluster.ledger import Lease, Ledger
from fairlead.core.cluster.speeds import Speeds
from fairlead.core.cluster.tokens import TokenEstimator
from fairlead.core.health.passive import PassiveFailures
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.model import EngineStats, Facts, Kind, Refusal, Usage
from fairlead.core.retry import RetryBudget, RetryRules, may_retry
from fairlead.core.shadow import Opinion, Shadow
from fairlead.core.view import Policy, Rng, View

REFRESH_SECONDS = 0.5  # how often learned speeds are worked out anew
RETRY_AFTER = 1  # seconds a client is asked to wait when no backend is there
NAMES_SHOWN = 20  # model names in an error message

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
    ) -> None:
        self.policy = policy
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
        self._view = View(rng)
        self.uses_prefixes = policy.needs_prefixes  # are block hashes wanted in the facts?
        self._counts_cached = policy.needs_prefixes  # do leases leave out what is expected to be cached?
        self._refreshed_at = float("-inf")
        # Candidates by model, thrown away when anything changes that decides who is one.
        self._usable: dict[str | None, list[Backend]] = {}
        self._usable_until = float("inf")  # when an ejection ends by itself
        self._models: frozenset[str] = frozenset()
        self._capped = False  # has any backend a connection limit?

    # --- the fleet -------------------------------------------------------------------------------------------

    def add(
        self,
        id: str,
        *,
        weight: float | None = None,
        max_connections: int | None = None,
        models: frozenset[str] | None = None,
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
            passive=PassiveFailures(self._max_fails, self._fail_timeout),
            shelf=self.cache.index.shelf(),
        )
        self.backends[id] = backend
        self._changed()
        self._refreshed_at = float("-inf")
        return backend

    def remove(self, id: str) -> None:
        """A backend leaves; requests that run there keep their leases to the end. KeyError if unknown."""
        self.cache.index.retire(self.backends.pop(id).shelf)
        if self.shadow is not None:
            self.shadow.forget(id)
        self._changed()

    def set_models(self, id: str, models: frozenset[str]) -> None:
        """What the backend was found to serve."""
        backend = self.backends[id]
        if backend.models != models:
            backend.models = models
            self._changed()

    def set_draining(self, id: str, draining: bool) -> None:
        """A draining backend gets no new requests."""
        self.backends[id].draining = draining
        self._changed()

    @property
    def models(self) -> frozenset[str]:
        """Every model that some backend serves, up or not."""
        return self._models

    def can_serve(self, now: float) -> bool:
        """Is there a backend that can take a request?"""
        return bool(self._candidates(None, now))

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

    def probe(self, id: str, ok: bool, reason: str = "") -> bool:
        """Take an active check's result; True when the backend went up or down by it."""
        backend = self.backends[id]
        changed = backend.probes.observe(ok, reason)
        if changed:
            self._changed()
            if not backend.up:
                self.cache.lost(backend)  # an engine that comes back has a new, empty cache
        return changed

    def poll_started(self, id: str) -> int:
        """A scrape of the engine's metrics begins; hand the returned mark to `poll_result`."""
        backend = self.backends[id]
        backend.epoch += 1
        backend.unseen_old += backend.unseen_new
        backend.unseen_new = 0
        foreign.begin(backend)
        return backend.epoch

    def poll_result(self, id: str, mark: int, stats: EngineStats, now: float) -> None:
        """The scrape begun with `mark` answered. (One that failed has no result to give.)"""
        backend = self.backends.get(id)
        if backend is None or mark != backend.epoch:
            return  # it left, or a later scrape has begun: this one's view of our requests is past
        self.cache.counters(backend, stats)
        backend.stats = stats
        backend.polled_at = now
        foreign.take(backend)
        backend.seen_epoch = mark
        backend.unseen_old = 0

    def tick(self, now: float) -> None:
        """Settle running streams and refresh what was learned."""
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

    # --- requests --------------------------------------------------------------------------------------------

    def assign(self, facts: Facts, now: float, tried: Collection[str] = ()) -> Lease | Refusal:
        """Choose a backend and open a lease there; or say why not. `tried` backends come last."""
        candidates = self._candidates(facts.model, now)
        if not candidates or (facts.model is None and facts.needs_model):
            refusal = self._resolve(facts, now)
            if refusal is not None:
                return refusal
            candidates = self._candidates(facts.model, now)
        if tried:
            candidates = [b for b in candidates if b.id not in tried] or candidates
        else:
            self.budget.request(now)
        if self._capped:
            candidates = [b for b in candidates if b.max_connections is None or b.inflight < b.max_connections]
            if not candidates:
                message = "every backend is at its connection limit: try again soon"
                return Refusal(503, "at_capacity", message, RETRY_AFTER)
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
        lease.policy, lease.opinion = self.policy, opinion
        if uses_prefixes:
            lease.cached_raw = self.cache.raw(backend)  # what reports judge, with whatever policy
        self.ledger.open(lease)
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
        if outcome == OK:
            backend.answered += 1
            backend.passive.succeed()
            if worked:
                self._learn(lease, now, usage)
        elif outcome == ERROR:
            backend.errors += 1
        elif outcome == FAILED:
            backend.errors += 1
            if backend.passive.fail(reason, now):
                self._changed()
        return True

    def may_retry(
        self, lease: Lease, reason: str, tries: int, arrived: float, now: float, tried: Collection[str] = ()
    ) -> bool:
        """May a request that failed with `reason` be assigned again? Takes one retry out of the budget."""
        if not may_retry(self.retry_rules, reason, tries, now - arrived):
            return False
        failed = lease.backend.id
        others = any(
            b.id != failed and b.id not in tried and (b.max_connections is None or b.inflight < b.max_connections)
            for b in self._candidates(lease.facts.model, now)
        )
        return others and self.budget.take(now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _ask(self, shadow: Shadow, facts: Facts, chosen: int) -> Opinion | None:
        opinion = shadow.observe(facts, self._view, chosen)
        if opinion is None:
            self._who_needs_prefixes()  # that may have been its last error
        return opinion

    def _learn(self, lease: Lease, now: float, usage: Usage | None) -> None:
        facts = lease.facts
        if facts.kind == Kind.CHEAP:
            return
        if lease.first_token_at is None:
            self.cache.started(lease)  # an answer in one piece: it was looked up all the same
        if usage is None:
            # A stream without usage still tells its length: about one event per token.
            produced = lease.produced
            self.tokens.learn(facts, None, produced)
            self.speeds.close(lease, produced or lease.output_expected, None, now)
        else:
            self.tokens.learn(facts, usage.prompt_tokens, usage.completion_tokens)
            self.speeds.close(lease, usage.completion_tokens, usage.cached_tokens, now)
            if self.uses_prefixes and usage.cached_tokens is not None:
                self.cache.reported(lease, usage)

    def _changed(self) -> None:
        self._usable.clear()
        self._usable_until = float("inf")
        names: set[str] = set()
        for backend in self.backends.values():
            names |= backend.models or frozenset()
        names.discard("*")
        self._models = frozenset(names)
        self._capped = any(b.max_connections is not None for b in self.backends.values())

    def _candidates(self, model: str | None, now: float) -> list[Backend]:
        """Backends that can take a request for `model` now; the list is shared and never changed."""
        if now >= self._usable_until:
            self._changed()
        found = self._usable.get(model)
        if found is None:
            found = self._find(model, now)
            if model is None or model in self._models:  # what clients make up must not fill the memory
                self._usable[model] = found
        return found

    def _find(self, model: str | None, now: float) -> list[Backend]:
        up = [b for b in self.backends.values() if b.up and not b.draining and b.serves(model)]
        fit = [b for b in up if not b.passive.ejected(now)]
        for b in up:
            if b.passive.ejected(now):
                self._usable_until = min(self._usable_until, b.passive.ejected_until)
        # When every one that answers its checks is ejected, trying one beats refusing all (nginx does the same).
        return fit or up

    def _resolve(self, facts: Facts, now: float) -> Refusal | None:
        """Settle which model is meant, or say why the request cannot be placed."""
        backends: Iterable[Backend] = self.backends.values()
        if facts.model is None and facts.needs_model and self._models:
            wildcard = any("*" in (b.models or ()) for b in backends)
            if len(self._models) > 1 and not wildcard:
                message = f"this fleet serves several models: set `model` to one of {self._names()}"
                return Refusal(400, "model_required", message, param="model")
            if len(self._models) == 1:
                facts.model = next(iter(self._models))
        if self._candidates(facts.model, now):
            return None
        if any(b.models is None for b in backends) or any(b.serves(facts.model) for b in backends):
            message = "no backend that can serve this request is up at the moment: try again soon"
            unseen = sum(b.models is None for b in backends)
            if facts.model is not None and unseen and self._models:
                message = (
                    f"no backend that is up serves the model {facts.model!r:.100} (served are: {self._names()}), "
                    f"but {unseen} of the backends did not answer yet: try again soon"
                )
            return Refusal(503, "no_backend", message, RETRY_AFTER)
        if not self.backends:
            return Refusal(503, "no_backend", "no backend is configured", RETRY_AFTER)
        message = f"no backend serves the model {facts.model!r:.100}; served are: {self._names()}"
        return Refusal(404, "model_not_found", message, param="model")

    def _names(self) -> str:
        names = sorted(self._models)
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return ", ".join(repr(n) for n in names[:NAMES_SHOWN]) + more
