"""Which reference rules are there, and what are they called? One row each; docs/reference-policies.md tells of all.

They are reimplemented from public descriptions so that anyone can repeat the comparisons, and only the simulator offers
them: nothing that routes live traffic knows this table. Left out is Prequal: it ranks by the latency that replicas
report at a given number of requests in flight, and a view holds no latencies to be honest with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from fairlead.core.view import Policy
from fairlead.sim.rivals.chwbl import Chwbl
from fairlead.sim.rivals.dynamo import Dynamo
from fairlead.sim.rivals.llmd import LlmD
from fairlead.sim.rivals.longest import AibrixPrefix, ProductionStackPrefix
from fairlead.sim.rivals.research import LeastResidentTokens, LMetric, Lpwl
from fairlead.sim.rivals.sglang import SglangCacheAware
from fairlead.sim.rivals.vllm import VllmDp

RIVALS: Final[dict[str, Callable[..., Policy]]] = {
    "vllm_dp": VllmDp,
    "sglang_cache_aware": SglangCacheAware,
    "sglang_cache_aware_32": partial(
        SglangCacheAware, "sglang_cache_aware_32", cache_threshold=0.5, balance_abs=32, balance_rel=1.1
    ),
    "llmd_211": LlmD,
    "dynamo": Dynamo,
    "dynamo_32": partial(Dynamo, "dynamo_32", prefill_load_scale=32.0),
    "lmetric": LMetric,
    "lpwl": Lpwl,
    "least_resident_tokens": LeastResidentTokens,
    "chwbl": Chwbl,
    "chwbl_second": partial(Chwbl, "chwbl_second", blocks=2),
    "aibrix_prefix": AibrixPrefix,
    "production_stack_prefix": ProductionStackPrefix,
}
