"""What the admin API shows: backends, decisions, explanations, the shadow, alerts, as plain JSON-able data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from fairlead.control.recorder import Recorder
from fairlead.core.alerts import Alert, ShareAlert
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.prefix import ENTRY_BYTES
from fairlead.core.health.passive import NO_PROGRESS, SLOW
from fairlead.feeds.watch import Watch
from fairlead.proxy.record import Record

MAX_ROWS = 64  # candidates shown in an explanation; the best ones of a larger fleet


def _number(value: float | None, digits: int = 6) -> float | None:
    """JSON has no infinities."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def state_of(backend: Backend, now: float) -> tuple[str, str]:
    """(state, reason): up, down, ejected, draining, disabled."""
    if not backend.enabled:
        return "disabled", "marked as down: it gets no requests"
    if not backend.up:
        return "down", backend.probes.reason
    if backend.draining:
        return "draining", "takes no new requests"
    passive = backend.passive
    if passive.ejected(now):
        return "ejected", f"rests {passive.ejected_until - now:.0f} s more {why_rested(backend)}"
    if passive.resting:
        return "ejected", f"its rest is over: one request at a time until one ends well {why_rested(backend)}"
    if backend.models is None:
        return "down", "its models are not known yet"
    if passive.ramping and (share := passive.share(now)):
        return "up", f"slow start: it gets up to {share:.0%} of its fair share"
    return "up", ""


def why_rested(backend: Backend) -> str:
    """Why was it ejected? As the end of a sentence."""
    passive = backend.passive
    what = {NO_PROGRESS: "as it hung", SLOW: "as it was too slow"}.get(passive.cause, "after failed requests")
    again = f", {passive.streak} times in a row" if passive.streak > 1 else ""
    return f"{what}{again} (last: {passive.reason})"


class Views:
    """Builds the answers of the admin API."""

    def __init__(
        self,
        balancer: Balancer,
        recorder: Recorder,
        alert: ShareAlert,
        watches: Mapping[str, Watch],
        clock: Callable[[], float],
    ) -> None:
        self._balancer = balancer
        self._recorder = recorder
        self._alert = alert
        self._watches = watches
        self._clock = clock

    def _wall(self, at: float) -> float:
        return round(time.time() - self._clock() + at, 3)

    def backends(self) -> list[dict[str, Any]]:
        """One row per backend."""
        return [self._backend(b) for b in self._balancer.backends.values()]

    def _backend(self, b: Backend) -> dict[str, Any]:
        now = self._clock()
        watch = self._watches.get(b.id)
        state, reason = state_of(b, now)
        stats = b.stats
        ended = b.answered + b.errors
        hits = None
        if stats.prefix_queries:
            hits = _number((stats.prefix_hits or 0.0) / stats.prefix_queries, 4)
        elif stats.hit_rate is not None:
            hits = _number(stats.hit_rate, 4)
        numbers = self._recorder.backends.get(b.id)
        ttft = numbers.ttft if numbers else None
        count = sum(ttft.counts) if ttft else 0
        return {
            "id": b.id,
            "url": watch.url if watch else None,
            "state": state,
            "reason": reason,
            "engine": watch.about.engine or None if watch else None,
            "version": watch.about.version or None if watch else None,
            "models": sorted(b.models) if b.models is not None else None,
            "weight": b.weight if b.weight_set else None,
            "max_connections": b.max_connections,
            "enabled": b.enabled,
            "backup": b.backup,
            "capacity": _number(b.capacity, 4),
            "slowdown": _number(b.slowdown, 4),
            "prefill_slowdown": _number(b.prefill_slowdown, 4),
            "decode_slowdown": _number(b.decode_slowdown, 4),
            "overdue": _number(b.overdue, 3),
            "share": _number(self._alert.shares.get(b.id, 0.0), 4),
            "inflight": b.inflight,
            "pending_tokens": b.prompt_pending + b.output_pending,
            "pending_prompt_tokens": b.prompt_pending,
            "pending_output_tokens": b.output_pending,
            "requests": b.placed,
            "answered": b.answered,
            "errors": b.errors,
            "ejections": dict(b.passive.ejections),
            "error_rate": _number(b.errors / ended, 4) if ended else 0.0,
            "ttft_mean": _number(ttft.total / count) if ttft and count else None,
            "engine_waiting": _number(stats.waiting),
            "engine_running": _number(stats.running),
            "foreign_waiting": _number(b.foreign_waiting, 3),
            "foreign_running": _number(b.foreign_running, 3),
            "kv_usage": _number(stats.kv_usage, 4),
            "prefix_hit_ratio": hits,
            "prefix_view": _prefix_view(b) if self._balancer.uses_prefixes else None,
            "metrics_age": _number(now - b.polled_at, 3),
            "metrics_problem": watch.about.metrics_problem or None if watch else None,
        }

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The last requests, newest first."""
        return [self._summary(r) for r in islice(reversed(self._recorder.records.values()), limit)]

    def _summary(self, r: Record) -> dict[str, Any]:
        return {
            "id": r.request_id,
            "time": self._wall(r.arrived),
            "method": r.method,
            "path": r.path,
            "model": r.model,
            "backend": r.backend,
            "reason": r.lease.choice.reason if r.lease is not None else None,
            "status": r.status,
            "outcome": r.outcome,
            "error": r.error or None,
            "tries": r.tries,
            "failed_on": list(r.tried),
            "ttft": _number(r.ttft),
            "duration": _number(r.duration),
            "prompt_tokens": r.prompt_tokens,
            "output_tokens": r.output_tokens,
        }

    def explain(self, request_id: str) -> dict[str, Any] | None:
        """Why did it go there? None when the request is not (or no longer) known."""
        record = self._recorder.records.get(request_id)
        if record is None:
            return None
        answer: dict[str, Any] = {"request": self._summary(record), "decision": None}
        lease = record.lease
        if lease is None:
            answer["explanation"] = f"it was not sent to any backend: {record.error or record.outcome}"
            return answer
        choice, policy, facts = lease.choice, lease.policy or self._balancer.policy, lease.facts
        rows = []
        for i, b in enumerate(lease.candidates):
            row = choice.terms[i] if i < len(choice.terms) else ()
            terms = {name: _number(value) for name, value in zip(policy.term_names, row, strict=False)}
            score = _number(choice.scores[i]) if i < len(choice.scores) else None
            rows.append({"backend": b.id, "score": score, "terms": terms, "chosen": i == choice.index})
        rows.sort(key=lambda row: (not row["chosen"], math.inf if row["score"] is None else row["score"]))
        now = self._clock()
        considered = {b.id for b in lease.candidates}
        others = []
        for b in self._balancer.backends.values():
            if b.id not in considered:
                state, reason = state_of(b, now)
                if b.id in record.tried:
                    state, reason = "tried", "it had failed this request before"
                elif state == "up":
                    reason = "up now; at that moment it was not usable or does not serve the model"
                others.append({"backend": b.id, "state_now": state, "reason": reason})
        answer["decision"] = {
            "policy": policy.name,
            "backend": lease.backend.id,
            "reason": choice.reason,
            "candidates": rows[:MAX_ROWS],
            "not_considered": others[:MAX_ROWS],
            "lower_score_is_better": True,
            "shadow": _opinion(lease),
            "estimate": {
                "kind": facts.kind,
                "prompt_bytes": facts.prompt_bytes,
                "prompt_tokens": facts.prompt_ids or None,
                "prompt_tokens_expected": lease.prompt_tokens,
                "output_tokens_expected": lease.output_expected,
                "max_tokens": facts.max_tokens,
            },
        }
        answer["explanation"] = (
            f"{policy.name} chose {lease.backend.id} out of {len(lease.candidates)}: {choice.reason}"
        )
        return answer

    def shadow(self) -> dict[str, Any]:
        """What the shadow would have done so far; without one there is not much to tell."""
        shadow, policy = self._balancer.shadow, self._balancer.policy.name
        if shadow is None:
            return {"policy": policy, "shadow": None}
        count = shadow.requests
        chosen, wanted = shadow.chosen_seconds, shadow.shadow_seconds
        gain = {
            "seconds": _number((chosen - wanted) / count) if count else None,
            "share": _number((chosen - wanted) / chosen, 4) if chosen else None,
        }
        by_difference = sorted(shadow.differences.items(), key=lambda item: (-sum(item[1]), item[0]))
        return {
            "policy": policy,
            "shadow": shadow.policy.name,
            "active": shadow.active,
            "since": None if shadow.since is None else self._wall(shadow.since),
            "requests": count,
            "agreement": _number(shadow.agreements / count, 4) if count else None,
            "predicted_ttft": {
                "policy": _number(chosen / count) if count else None,
                "shadow": _number(wanted / count) if count else None,
            },
            "estimated_gain": gain,
            "differences": [
                {"backend": id, "only_policy": here, "only_shadow": there}
                for id, (here, there) in by_difference[:MAX_ROWS]
            ],
            "errors": shadow.errors,
            "last_error": shadow.problem or None,
        }

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that stand."""
        return [self._alert_row(a) for a in self._alert.active.values()]

    def _alert_row(self, alert: Alert) -> dict[str, Any]:
        return {
            "alert": alert.name,
            "backend": alert.backend,
            "since": self._wall(alert.since),
            "value": _number(alert.value, 4),
            "message": alert.message,
        }

    def models(self) -> dict[str, dict[str, Any]]:
        """What was learned per model."""
        return {
            name: {"bytes_per_token": _number(m.bytes_per_token, 3), "mean_output_tokens": _number(m.mean_output, 1)}
            for name, m in self._balancer.tokens.snapshot().items()
        }


def _prefix_view(b: Backend) -> dict[str, Any]:
    """What we think that its prefix cache holds, and how far that is to be trusted."""
    shelf, trust = b.shelf, b.trust
    return {
        "state": trust.state,
        "blocks": len(shelf.blocks),
        "bytes": shelf.used,
        "limit_bytes": shelf.limit,
        "trust": _number(trust.factor, 4),
        "drops": trust.drops,
        "memory_bytes": len(shelf.blocks) * ENTRY_BYTES,
    }


def _opinion(lease: Lease) -> dict[str, Any] | None:
    """What the shadow would have done with this request."""
    opinion = lease.opinion
    if opinion is None:
        return None
    return {
        "policy": opinion.policy.name,
        "backend": lease.candidates[opinion.wanted].id,
        "agrees": opinion.wanted == lease.choice.index,
        "predicted_ttft": {"policy": _number(opinion.chosen_seconds), "shadow": _number(opinion.shadow_seconds)},
    }
