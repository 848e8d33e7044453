"""What the brain noticed and the log tells: once per change, with the backend's name."""

from __future__ import annotations

import logging
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from control_records import make_balancer, place

from fairlead.control.notices import Notices
from fairlead.core.balancer import FAILED, Balancer
from fairlead.core.cluster.trust import DROP_AFTER, TRUSTED_AFTER
from fairlead.core.policies.registry import make
from fairlead.core.shadow import MAX_ERRORS, Shadow


def look(notices: Notices, caplog: pytest.LogCaptureFixture, now: float = 0.0) -> list[tuple[str, str]]:
    """The lines of one look: (level, message)."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "fairlead"):
        notices.look(now)
        notices.look(now)  # and nothing twice
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def with_prefixes() -> Balancer:
    balancer = make_balancer("a", "b")
    balancer.set_policy(make("prefix_cache"))
    return balancer


def test_a_view_that_turns_out_wrong_is_a_warning_and_one_that_holds_again_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    balancer = with_prefixes()
    notices = Notices(balancer)
    trust = balancer.backends["a"].trust
    assert look(notices, caplog) == []
    for _ in range(DROP_AFTER):
        trust.observe(4000, 0, 16)
    ((level, message),) = look(notices, caplog)
    assert (level, "backend a did not have cached what it should have" in message) == ("WARNING", True)
    for _ in range(TRUSTED_AFTER):
        trust.observe(4000, 4000, 16)
    assert look(notices, caplog) == [("INFO", "the prefix view of backend a is trusted again")]


def test_a_view_that_was_emptied_with_its_engine_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    balancer = with_prefixes()
    notices = Notices(balancer)
    look(notices, caplog)
    for _ in range(3):
        balancer.probe("b", False)
    assert look(notices, caplog) == [
        ("WARNING", "backend b was restarted or went down: its prefix view is emptied")
    ]  # fmt: skip


def test_nobody_hears_of_views_that_nobody_uses(caplog: pytest.LogCaptureFixture) -> None:
    balancer = make_balancer("a", "b")
    notices = Notices(balancer)
    for _ in range(3):
        balancer.probe("a", False)
    assert look(notices, caplog) == []


def test_backends_that_rest_and_come_back_are_told(caplog: pytest.LogCaptureFixture) -> None:
    balancer = make_balancer("a", "b")
    notices = Notices(balancer)
    while not balancer.backends["a"].passive.ejected(0.0):
        lease = place(balancer, model="m")
        balancer.finish(lease, FAILED if lease.backend.id == "a" else "ok", 0.0, reason="connect")
    assert look(notices, caplog) == [("WARNING", "backend a rests for 33 s after failed requests (last: connect)")]
    assert look(notices, caplog, 34.0) == [("INFO", "backend a gets requests again")]


def test_panic_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    balancer = make_balancer("a", "b")
    notices = Notices(balancer)
    for id in ("a", "b"):
        for _ in range(3):
            balancer.probe(id, False)
    said = "too few backends of the model m are usable: all that may be alive are tried"
    assert look(notices, caplog) == [("WARNING", said)]
    assert look(notices, caplog) == []
    for _ in range(2):
        balancer.probe("a", True)
    assert look(notices, caplog) == [("INFO", "enough backends of the model m are usable again")]


def test_a_shadow_that_was_turned_off_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*arguments: Any) -> None:
        raise ZeroDivisionError

    balancer = make_balancer("a", "b")
    notices = Notices(balancer)
    balancer.set_shadow(Shadow(cast(Any, SimpleNamespace(name="odd", choose=fails)), Random(1)))
    for _ in range(MAX_ERRORS - 1):
        place(balancer, model="m")
    assert look(notices, caplog) == []
    place(balancer, model="m")
    ((level, message),) = look(notices, caplog)
    assert level == "WARNING"
    assert message.startswith(f"the shadow odd is not asked any more after {MAX_ERRORS} errors, the last: ZeroDivision")
