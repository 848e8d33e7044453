"""What each worker shows of itself -> what is true of all of them. Tables and pure functions.

Counters and histograms are summed. A gauge or a field goes by the table, which says what two workers' values make
together: what each has a part of is summed; what each sees of the same thing is the mean of what they think, or the
worst.

Rule 1: counters never go backwards: when a worker dies, the last that was seen of its counters stays in the sums.
Rule 2: what a worker counts of events that all workers see (ejections) is the most that any has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

How = Callable[[Sequence[float]], float]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def first(values: Sequence[float]) -> float:
    return values[0]


GAUGES: Final[dict[str, How]] = {
    # each has its part
    "fairlead_inflight_requests": sum,
    "fairlead_pending_tokens": sum,
    "fairlead_connections": sum,
    "fairlead_connections_limit": sum,
    "fairlead_body_bytes": sum,
    "fairlead_body_bytes_limit": sum,
    "fairlead_descriptors": sum,
    "fairlead_descriptors_limit": sum,
    "fairlead_backend_connections": sum,
    "fairlead_prefix_index_bytes": sum,
    # each sees the same thing, and the worst of it counts
    "fairlead_backend_up": min,
    "fairlead_backend_ejected": max,
    "fairlead_panic": max,
    "fairlead_prefix_distrusted": max,
    "fairlead_backend_draining": max,
    "fairlead_engine_metrics_age_seconds": max,
    "fairlead_loop_lag_seconds": max,
    "fairlead_recording_stopped": max,
    "fairlead_decision_log_stopped": max,
    "fairlead_tls_expiry_timestamp_seconds": min,
    "fairlead_tls_reload_failed": max,
    "fairlead_prefix_index_blocks": max,
    # each sees the same thing at another moment, or thinks of it what it has learned
    "fairlead_engine_waiting": mean,
    "fairlead_engine_running": mean,
    "fairlead_engine_kv_usage": mean,
    "fairlead_backend_capacity": mean,
    "fairlead_prefill_slowdown": mean,
    "fairlead_decode_slowdown": mean,
    "fairlead_prefix_trust": mean,
    "fairlead_backend_pace": mean,
    "fairlead_backend_weight_share": mean,
    # the supervisor's own words, which all repeat
    "fairlead_config_version": first,
    "fairlead_config_applied_timestamp_seconds": first,
    "fairlead_config_last_reload_success": first,
}
WHOLE: Final = (  # only of the whole: left out of workers' pages
    "fairlead_backend_share", "fairlead_alert_active", "fairlead_webhook_failures", "fairlead_webhook_messages",
)  # fmt: skip
SEEN_BY_ALL: Final = ("fairlead_ejections", "fairlead_config_reloads")  # counters of what happens to all at once

Key = tuple[str, tuple[tuple[str, str], ...]]


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sorted(sample.labels.items()))


class Totals:
    """The counters of workers that are gone."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def keep(self, page: Iterable[Metric], backends: Collection[str]) -> None:
        """The last page of a worker that died. Those of backends that left long ago (not in `backends`) go with it."""
        for family in page:
            if family.type not in ("counter", "histogram"):
                continue
            old = self._families.get(family.name)
            both = [family] if old is None else [old, family]
            summed = _combined(both, max if family.name in SEEN_BY_ALL else sum)
            summed.samples = [s for s in summed.samples if s.labels.get("backend", "") in ("", *backends)]
            self._families[family.name] = summed

    def forget(self, pages: Iterable[Iterable[Metric]], backends: Collection[str]) -> None:
        """Backends that left (not in `backends`) and that no living worker counts any more: they would begin anew."""
        stay = {"", *backends}
        if all(s.labels.get("backend", "") in stay for family in self.page() for s in family.samples):
            return
        counted = {(f.name, s.labels.get("backend", "")) for page in pages for f in page for s in f.samples}
        for name, family in self._families.items():
            left = [(sample, sample.labels.get("backend", "")) for sample in family.samples]
            family.samples = [sample for sample, id in left if id in stay or (name, id) in counted]

    def page(self) -> list[Metric]:
        return list(self._families.values())


def merged(pages: Sequence[Sequence[Metric]], gone: Totals) -> list[Metric]:
    """One page of the pages of all workers that live."""
    found: dict[str, list[Metric]] = {}
    for page in pages:
        for family in page:
            found.setdefault(family.name, []).append(family)
    for family in gone.page():
        found.setdefault(family.name, []).append(family)
    return [_combined(families, _how(families[0])) for name, families in found.items() if name not in WHOLE]


def _how(family: Metric) -> How:
    if family.type in ("counter", "histogram"):
        return max if family.name in SEEN_BY_ALL else sum
    return GAUGES.get(family.name, first if family.type == "info" else max)


def _combined(families: Sequence[Metric], how: How) -> Metric:
    values: dict[Key, list[float]] = {}
    samples: dict[Key, Sample] = {}
    for family in families:
        for sample in family.samples:
            key = _key(sample)
            values.setdefault(key, []).append(sample.value)
            samples.setdefault(key, sample)
    made = Metric(families[0].name, families[0].documentation, families[0].type)
    made.samples = [sample._replace(value=how(values[key])) for key, sample in samples.items()]
    return made


# --- the admin API's rows ------------------------------------------------------------------------------------

STATES: Final = ("up", "draining", "disabled", "ejected", "down")  # from the best to the worst
ROW_LOADS: Final = ("inflight", "pending_tokens", "pending_prompt_tokens", "pending_output_tokens")
ROW_COUNTS: Final = ("requests", "answered", "errors", "prompt_tokens", "output_tokens")  # the dead's count, too
ROW_MEANS: Final = ("capacity", "slowdown", "prefill_slowdown", "decode_slowdown")
ROW_WORST: Final = ("overdue",)
FRESHEST: Final = (  # the engine's word: of the worker that asked last
    "engine_waiting", "engine_running", "foreign_waiting", "foreign_running", "kv_usage", "prefix_hit_ratio",
    "metrics_age", "metrics_problem",
)  # fmt: skip

Row = dict[str, Any]


def backends(tables: Sequence[Sequence[Row]], shares: dict[str, float], gone: RowTotals | None = None) -> list[Row]:
    """Rows of /api/backends; `shares` are those of the whole, `gone` is what workers had counted that died."""
    by_id: dict[str, list[Row]] = {}
    for table in tables:
        for row in table:
            by_id.setdefault(row["id"], []).append(row)
    return [_backend(rows, shares.get(id, 0.0), gone.rows.get(id) if gone else None) for id, rows in by_id.items()]


class RowTotals:
    """What workers that are gone had counted, by backend."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def keep(self, table: Sequence[Row], backends: Collection[str]) -> None:
        """The last rows of a worker that died; of backends that are not there any more nothing is kept."""
        for row in table:
            known = self.rows.get(row["id"])
            self.rows[row["id"]] = {
                **{name: row[name] + (known[name] if known else 0) for name in ROW_COUNTS},
                "ttft_counts": _summed([row["ttft_counts"], *([known["ttft_counts"]] if known else [])]),
            }
        self.rows = {id: row for id, row in self.rows.items() if id in backends}

    def forget(self, backends: Iterable[str]) -> None:
        """These have left; who comes again under such a name begins at zero."""
        for id in backends:
            self.rows.pop(id, None)


def _summed(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(each) for each in zip(*counts, strict=True)]


def _backend(rows: Sequence[Row], share: float, gone: Row | None) -> Row:
    whole = dict(rows[0])
    for name in ROW_LOADS:
        whole[name] = sum(row[name] for row in rows)
    for name in ROW_COUNTS:
        whole[name] = sum(row[name] for row in rows) + (gone[name] if gone else 0)
    whole["ttft_counts"] = _summed([row["ttft_counts"] for row in (*rows, *([gone] if gone else []))])
    for name in (*ROW_MEANS, *ROW_WORST):
        known = [row[name] for row in rows if row[name] is not None]
        how: How = mean if name in ROW_MEANS else max
        whole[name] = round(how(known), 4) if known else None
    freshest = min(rows, key=lambda row: float("inf") if row["metrics_age"] is None else row["metrics_age"])
    whole.update({name: freshest[name] for name in FRESHEST})
    whole["ejections"] = {cause: max(row["ejections"][cause] for row in rows) for cause in rows[0]["ejections"]}
    ended = whole["answered"] + whole["errors"]
    whole["error_rate"] = round(whole["errors"] / ended, 4) if ended else 0.0
    whole["ttft_mean"] = _weighted([(row["ttft_mean"], row["answered"] or 1) for row in rows])
    whole["share"] = round(share, 4)
    views = [row["prefix_view"] for row in rows if row["prefix_view"] is not None]
    if views:  # all are told of all prompts: the one that knows most
        most = max(views, key=lambda view: view["blocks"])
        whole["prefix_view"] = {**most, "memory_bytes": sum(view["memory_bytes"] for view in views)}
    worst = max(rows, key=lambda row: STATES.index(row["state"]))
    agree = sum(row["state"] == worst["state"] for row in rows)
    whole["state"], whole["reason"] = worst["state"], worst["reason"]
    if agree < len(rows):
        whole["reason"] = f"{worst['reason']} ({agree} of {len(rows)} workers say so)".strip()
    return whole


def _weighted(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    """The mean of what is known, each by its weight."""
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return round(sum(value * weight for value, weight in known) / total, 6) if total else None


def decisions(tables: Sequence[Sequence[Row]], limit: int) -> list[Row]:
    """The last ones of all, newest first."""
    return sorted((row for table in tables for row in table), key=lambda row: -row["time"])[:limit]


def models(tables: Sequence[dict[str, Row]]) -> dict[str, Row]:
    """What was learned of lengths: the mean of what the workers think."""
    found: dict[str, list[Row]] = {}
    for table in tables:
        for name, row in table.items():
            found.setdefault(name, []).append(row)
    return {
        name: {field: round(mean([row[field] for row in rows]), 3) for field in rows[0]} for name, rows in found.items()
    }


def shadow(parts: Sequence[Row]) -> Row:
    """What the shadow would have done, over all requests that were compared."""
    whole = dict(parts[0])
    if whole["shadow"] is None:
        return whole
    count = whole["requests"] = sum(part["requests"] for part in parts)
    weights = [part["requests"] for part in parts]
    whole["active"] = all(part["active"] for part in parts)
    whole["since"] = min((part["since"] for part in parts if part["since"] is not None), default=None)
    whole["agreement"] = _weighted(zip([part["agreement"] for part in parts], weights, strict=True))
    seconds = whole["predicted_ttft"] = {
        name: _weighted(zip([part["predicted_ttft"][name] for part in parts], weights, strict=True))
        for name in ("policy", "shadow")
    }
    chosen, wanted = seconds["policy"], seconds["shadow"]
    gain = round(chosen - wanted, 6) if count and chosen is not None and wanted is not None else None
    whole["estimated_gain"] = {
        "seconds": gain,
        "share": round(gain / chosen, 4) if gain is not None and chosen else None,
    }
    differences: dict[str, Row] = {}
    for part in parts:
        for row in part["differences"]:
            known = differences.setdefault(
                row["backend"], {"backend": row["backend"], "only_policy": 0, "only_shadow": 0}
            )
            known["only_policy"] += row["only_policy"]
            known["only_shadow"] += row["only_shadow"]
    whole["differences"] = sorted(
        differences.values(), key=lambda row: (-row["only_policy"] - row["only_shadow"], row["backend"])
    )
    whole["errors"] = sum(part["errors"] for part in parts)
    whole["last_error"] = next((part["last_error"] for part in parts if part["last_error"]), None)
    return whole
