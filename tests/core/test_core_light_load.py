"""A fleet with little to do: does one bad moment stay with a backend for ever?"""

from __future__ import annotations

from core_fleet import chat, fleet

from fairlead.core.balancer import OK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Usage


def test_one_slow_answer_does_not_starve_a_backend() -> None:
    balancer = fleet("least_pending_tokens", "a", "b")
    slow = {"b": 10.0}  # b's first answer only: a cold start
    counts = {"a": 0, "b": 0}
    for second in range(1_200):
        now = float(second)
        balancer.tick(now)
        lease = balancer.assign(chat(400), now)
        assert isinstance(lease, Lease)
        id = lease.backend.id
        counts[id] += second >= 600
        took = 0.1 * slow.pop(id, 1.0)
        balancer.first_token(lease, now + took / 10)
        balancer.finish(lease, OK, now + took, Usage(100, 20))
    assert min(counts.values()) > 100, counts
