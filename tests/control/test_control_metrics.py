"""The metrics page: can everybody read it, and do rules and docs name what is on it?"""

from __future__ import annotations

import asyncio
import math
import random
import re
from pathlib import Path

import yaml
from control_app import engines, running
from control_records import finish, full_page, make_balancer, page_of, place
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from promtool import promtool

from fairlead.control.exports.prometheus_rules import render
from fairlead.control.recorder import MICRO, SECONDS, TOKEN_SECONDS, Recorder
from fairlead.core.model import Usage
from fairlead.core.policies.registry import make
from fairlead.core.shadow import Shadow

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"


def families(page: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def names_of_series(page: bytes) -> set[str]:
    return {sample.name for family in families(page).values() for sample in family.samples}


def test_the_page_is_valid_exposition() -> None:
    page = full_page()
    found = families(page)
    assert len(found) == page.count(b"# TYPE ")  # nothing lost, nothing twice
    seen: set[tuple[str, str]] = set()
    for family in found.values():
        assert family.name.startswith("fairlead_") and family.documentation and family.samples, family.name
        for sample in family.samples:
            key = (sample.name, str(sorted(sample.labels.items())))
            assert key not in seen
            seen.add(key)
            assert math.isfinite(sample.value)


def test_promtool_finds_nothing_wrong() -> None:
    status, output = promtool("check", "metrics", stdin=full_page())
    assert (status, output) == (0, "")


def test_histograms_are_cumulative_and_agree_with_their_count() -> None:
    found = families(full_page())
    for name, bounds in [
        ("fairlead_ttft_seconds", SECONDS),
        ("fairlead_request_seconds", SECONDS),
        ("fairlead_inter_token_seconds", TOKEN_SECONDS),
        ("fairlead_decision_seconds", MICRO),
    ]:
        samples = found[name].samples
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name == f"{name}_bucket"]
        (count,) = [s.value for s in samples if s.name == f"{name}_count"]
        (total,) = [s.value for s in samples if s.name == f"{name}_sum"]
        assert [bound for bound, _ in buckets] == [*bounds, math.inf]
        values = [value for _, value in buckets]
        assert values == sorted(values) and values[-1] == count > 0
        assert total > 0


def test_a_value_lands_below_its_bound() -> None:
    balancer = make_balancer("a")
    recorder = Recorder(balancer)
    finish(recorder, place(balancer, model="m"), 10.25, usage=Usage(1, 1))  # a quarter of a second
    samples = families(page_of(balancer, recorder).render())["fairlead_request_seconds"].samples
    by_bound = {s.labels["le"]: s.value for s in samples if "le" in s.labels}
    assert (by_bound["0.1"], by_bound["0.25"], by_bound["+Inf"]) == (0, 1, 1)


def test_label_values_are_escaped() -> None:
    odd = 'a"\\\n b'
    balancer = make_balancer(odd, model=odd)
    recorder = Recorder(balancer)
    finish(recorder, place(balancer, model=odd), 11.0, usage=Usage(1, 1))
    page = page_of(balancer, recorder).render()
    (sample,) = families(page)["fairlead_requests"].samples
    assert sample.labels == {"backend": odd, "model": odd, "code": "200"}
    assert promtool("check", "metrics", stdin=page) == (0, "")


def test_metrics_of_engines_appear_only_where_the_engine_tells_them() -> None:
    balancer = make_balancer("a")
    found = families(page_of(balancer, Recorder(balancer)).render())
    for name in ("waiting", "running", "kv_usage", "metrics_age_seconds"):
        assert found[f"fairlead_engine_{name}"].samples == []
    assert found["fairlead_backend_up"].samples[0].value == 1.0


def test_the_weight_share_is_what_set_weights_ask_for() -> None:
    balancer = make_balancer("a", "b", "c")

    def shares() -> list[float]:
        page = page_of(balancer, Recorder(balancer)).render()
        return [sample.value for sample in families(page)["fairlead_backend_weight_share"].samples]

    assert shares() == [0.0, 0.0, 0.0]  # nobody set a weight
    balancer.backends["a"].weight, balancer.backends["a"].weight_set = 3.0, True
    assert shares() == [0.6, 0.2, 0.2]
    for _ in range(3):
        balancer.probe("c", False)
    assert shares() == [0.75, 0.25, 0.0]  # of those that are up


def test_what_the_prefix_index_holds_is_shown_while_somebody_uses_it() -> None:
    balancer = make_balancer("a", "b")
    recorder = Recorder(balancer)
    assert "fairlead_prefix_index_blocks" not in families(page_of(balancer, recorder).render())
    balancer.set_policy(make("prefix_cache"))
    facts = {"model": "m", "prompt_bytes": 4096, "blocks": (1, 2), "block_ends": (2048, 4096), "span": 4096}
    finish(recorder, place(balancer, **facts), 12.0, usage=Usage(1000, 5, 0))
    lease = place(balancer, **facts)
    finish(recorder, lease, 12.0, usage=Usage(1000, 5, 900))
    id = lease.backend.id
    balancer.probe(id, False)
    balancer.probe(id, False)
    balancer.probe(id, False)  # down: its cache is taken for lost
    found = families(page_of(balancer, recorder).render())

    def of(name: str, id: str) -> float:
        (value,) = [s.value for s in found[name].samples if s.labels == {"backend": id} and "created" not in s.name]
        return value

    other = "a" if id == "b" else "b"
    assert (of("fairlead_prefix_index_blocks", id), of("fairlead_prefix_view_drops", id)) == (0, 1)
    assert of("fairlead_prefix_trust", id) == of("fairlead_prefix_trust", other) == 1
    assert of("fairlead_prefix_view_drops", other) == 0
    assert of("fairlead_prefix_predicted_tokens", id) == lease.cached_raw > 900
    assert of("fairlead_prefix_hit_tokens", id) == 900
    assert of("fairlead_prefill_slowdown", id) == of("fairlead_decode_slowdown", id) == 1


def test_predictions_are_counted_only_where_the_engine_told_what_was_cached() -> None:
    balancer = make_balancer("a")
    balancer.set_policy(make("prefix_cache"))
    recorder = Recorder(balancer)
    facts = {"model": "m", "prompt_bytes": 4096, "blocks": (1, 2), "block_ends": (2048, 4096), "span": 4096}
    for _ in range(3):
        finish(recorder, place(balancer, **facts), 12.0, usage=Usage(1000, 5))
    assert recorder.backends["a"].predicted_tokens == 0


def test_the_policies_in_force_and_the_shadows_sums_are_shown() -> None:
    balancer = make_balancer("a", "b")
    page = page_of(balancer, Recorder(balancer))
    before = families(page.render())
    assert before["fairlead_policy_info"].samples[0].labels == {"policy": "round_robin", "shadow": ""}
    assert not [name for name in before if name.startswith("fairlead_shadow")]
    shadow = Shadow(make("random"), random.Random(1))
    balancer.set_shadow(shadow)
    for _ in range(8):
        place(balancer, model="m", prompt_bytes=4000)
    found = families(page.render())
    assert found["fairlead_policy_info"].samples[0].labels == {"policy": "round_robin", "shadow": "random"}
    values = {
        (s.name, s.labels.get("choice")): s.value
        for family in found.values() if family.name.startswith("fairlead_shadow") for s in family.samples
    }  # fmt: skip
    assert values == {
        ("fairlead_shadow_requests_total", None): 8,
        ("fairlead_shadow_agreements_total", None): shadow.agreements,
        ("fairlead_shadow_predicted_ttft_seconds_total", "policy"): shadow.chosen_seconds,
        ("fairlead_shadow_predicted_ttft_seconds_total", "shadow"): shadow.shadow_seconds,
        ("fairlead_shadow_errors_total", None): 0,
    }
    assert 0 < shadow.agreements < 8 and shadow.chosen_seconds > 0


def test_a_recording_has_its_metrics_only_while_there_is_one() -> None:
    names = {name for name in families(full_page()) if "recording" in name}
    assert names == {f"fairlead_recording_{what}" for what in ("requests", "dropped", "bytes", "stopped")}
    balancer = make_balancer("a")
    assert b"recording" not in page_of(balancer, Recorder(balancer)).render()


def test_a_live_page_shows_real_traffic() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url) as fairlead:
            for _ in range(4):
                await fairlead.chat("m")
            status, page = await fairlead.get("/metrics")
            assert status == 200
            assert promtool("check", "metrics", stdin=page) == (0, "")
            found = families(page)
            requests = [s for s in found["fairlead_requests"].samples if s.name.endswith("_total")]
            assert sum(s.value for s in requests) == 4
            assert {s.labels["backend"] for s in requests} <= {"b0", "b1"}
            assert {(s.labels["model"], s.labels["code"]) for s in requests} == {("m", "200")}

    asyncio.run(body())


def test_the_rules_use_only_names_that_are_on_the_page() -> None:
    expressions = [rule["expr"] for rule in yaml.safe_load(render(None))["groups"][0]["rules"]]
    code = "\n".join(re.sub(r"#.*|\"[^\"]*\"", "", expression) for expression in expressions)
    used = set(re.findall(r"\bfairlead_\w+", code))
    assert len(used) >= 8
    assert used <= names_of_series(full_page())


def test_the_rules_use_only_labels_that_are_on_the_page() -> None:
    page = names_and_labels(full_page())
    code = re.sub(r"#.*", "", "\n".join(rule["expr"] for rule in yaml.safe_load(render(None))["groups"][0]["rules"]))
    for name, selector in re.findall(r"\b(fairlead_\w+)\{([^}]*)\}", code):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= page[name], name


def names_and_labels(page: bytes) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in families(page).values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_is_explained_in_the_docs() -> None:
    text = MONITORING.read_text(encoding="utf-8")
    for name in sorted(families(full_page())):
        shown = re.findall(rf"`{name}(?:_total|_info)?[`{{]", text)
        assert shown, f"{name} is not named in docs/monitoring.md"


def test_every_metric_in_the_docs_is_on_the_page() -> None:
    page = full_page()
    known = names_of_series(page) | set(families(page))
    named = set(re.findall(r"`(fairlead_\w+)", MONITORING.read_text(encoding="utf-8")))
    assert named <= known, named - known
