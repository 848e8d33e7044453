"""What the admin API shows: backends, decisions, explanations, the shadow, alerts, as plain JSON-able data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from fairlead.control import explaining
from fairlead.control.alerting import Alerting
from fairlead.control.explaining import MAX_ROWS, number
from fairlead.control.recorder import SECONDS, Recorder
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.prefix import ENTRY_BYTES
from fairlead.core.cluster.standing import state_of
from fairlead.feeds.watch import Watch


class Views:
    """Builds the answers of the admin API."""

    def __init__(
        self,
        balancer: Balancer,
        recorder: Recorder,
        alerting: Alerting,
        watches: Mapping[str, Watch],
        clock: Callable[[], float],
    ) -> None:
        self._balancer = balancer
        self._recorder = recorder
        self._alerting = alerting
        self._watches = watches
        self._clock = clock

    def _wall(self, at: float) -> float:
        return round(time.time() - self._clock() + at, 3)

    def backends(self) -> list[dict[str, Any]]:
        """One row per backend. `ttft_counts` is for history.py, which turns it into figures of the last minute."""
        return [self._backend(b) for b in self._balancer.backends.values()]

    def _backend(self, b: Backend) -> dict[str, Any]:
        now = self._clock()
        watch = self._watches.get(b.id)
        state, reason = state_of(b, now)
        stats = b.stats
        ended = b.answered + b.errors
        hits = None
        if stats.prefix_queries:
            hits = number((stats.prefix_hits or 0.0) / stats.prefix_queries, 4)
        elif stats.hit_rate is not None:
            hits = number(stats.hit_rate, 4)
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
            "capacity": number(b.capacity, 4),
            "slowdown": number(b.slowdown, 4),
            "prefill_slowdown": number(b.prefill_slowdown, 4),
            "decode_slowdown": number(b.decode_slowdown, 4),
            "overdue": number(b.overdue, 3),
            "share": number(self._alerting.shares.get(b.id, 0.0), 4),
            "inflight": b.inflight,
            "pending_tokens": b.prompt_pending + b.output_pending,
            "pending_prompt_tokens": b.prompt_pending,
            "pending_output_tokens": b.output_pending,
            "requests": b.placed,
            "answered": b.answered,
            "errors": b.errors,
            "ejections": dict(b.passive.ejections),
            "error_rate": number(b.errors / ended, 4) if ended else 0.0,
            "prompt_tokens": numbers.prompt_tokens if numbers else 0,
            "output_tokens": numbers.output_tokens if numbers else 0,
            "ttft_counts": list(ttft.counts) if ttft else [0] * (len(SECONDS) + 1),
            "ttft_mean": number(ttft.total / count) if ttft and count else None,
            "engine_waiting": number(stats.waiting),
            "engine_running": number(stats.running),
            "foreign_waiting": number(b.foreign_waiting, 3),
            "foreign_running": number(b.foreign_running, 3),
            "kv_usage": number(stats.kv_usage, 4),
            "prefix_hit_ratio": hits,
            "prefix_view": _prefix_view(b) if self._balancer.uses_prefixes else None,
            "metrics_age": number(now - b.polled_at, 3),
            "metrics_problem": watch.about.metrics_problem or None if watch else None,
        }

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The last requests, newest first."""
        offset = time.time() - self._clock()
        newest = islice(reversed(self._recorder.records.values()), limit)
        return [explaining.summary(record, record.arrived + offset) for record in newest]

    def explain(self, request_id: str) -> dict[str, Any] | None:
        """Why did it go there, and what came of it? None when the request is not (or no longer) known."""
        record = self._recorder.records.get(request_id)
        if record is None:
            return None
        asked = explaining.asked(record, self._wall(record.arrived))
        answer: dict[str, Any] = {"request": asked, "decision": None, "after": None}
        lease = record.lease
        if lease is None:
            answer["explanation"] = f"it was not sent to any backend: {record.error or record.outcome}"
            return answer
        decision = answer["decision"] = explaining.decision_of(record, lease)
        fleet = self._balancer.backends.values()
        others = explaining.left_out(decision["not_considered"], lease, fleet, self._clock())
        decision["not_considered"] = others[:MAX_ROWS]
        answer["after"] = explaining.after(record, lease)
        answer["explanation"] = explaining.sentence(record, lease)
        return answer

    def shadow(self) -> dict[str, Any]:
        """What the shadow would have done so far; without one there is not much to tell."""
        shadow, policy = self._balancer.shadow, self._balancer.policy.name
        if shadow is None:
            return {"policy": policy, "shadow": None}
        count = shadow.requests
        chosen, wanted = shadow.chosen_seconds, shadow.shadow_seconds
        gain = {
            "seconds": number((chosen - wanted) / count) if count else None,
            "share": number((chosen - wanted) / chosen, 4) if chosen else None,
        }
        by_difference = sorted(shadow.differences.items(), key=lambda item: (-sum(item[1]), item[0]))
        return {
            "policy": policy,
            "shadow": shadow.policy.name,
            "active": shadow.active,
            "since": None if shadow.since is None else self._wall(shadow.since),
            "requests": count,
            "agreement": number(shadow.agreements / count, 4) if count else None,
            "predicted_ttft": {
                "policy": number(chosen / count) if count else None,
                "shadow": number(wanted / count) if count else None,
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
        return self._alerting.standing()

    def ended_alerts(self) -> list[dict[str, Any]]:
        """The last alerts that ended, newest first."""
        return self._alerting.ended()

    def models(self) -> dict[str, dict[str, Any]]:
        """What was learned per model."""
        return {
            name: {"bytes_per_token": number(m.bytes_per_token, 3), "mean_output_tokens": number(m.mean_output, 1)}
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
        "trust": number(trust.factor, 4),
        "drops": trust.drops,
        "memory_bytes": len(shelf.blocks) * ENTRY_BYTES,
    }
