"""What a webhook is told and when, in virtual time: storms become few messages, and nothing is lost or told twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from fairlead.control.webhook_formats import FORMATS, LISTED, Sender, render, url_of
from fairlead.control.webhook_outbox import FIRST_PAUSE, GROUP, LONGEST_PAUSE, MINUTE, MOST, REPEAT, Batch, Outbox
from fairlead.control.webhooks import FORMAT_NAMES
from fairlead.core.alerts.engine import Alert

SENDER = Sender("lb1:9900", 1_795_000_000.0)


def alert(backend: str = "a", since: float = 10.0, until: float | None = None, name: str = "errors") -> Alert:
    return Alert(name, backend, "warning", since, 0.5, f"backend {backend} failed <b>&", until)


@dataclass
class Line:
    """An outbox and whoever takes its messages, while `works` says so."""

    per_minute: int = 10
    send_resolved: bool = True
    repeats: bool = False
    works: Callable[[float], bool] = lambda now: True
    now: float = 0.0
    sent: list[tuple[float, Batch]] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(per_minute=self.per_minute, send_resolved=self.send_resolved, repeats=self.repeats)

    def tell(self, *alerts: Alert) -> None:
        self.outbox.tell(alerts, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.outbox.due(self.now)) is not None and self.now + due <= end:
            assert due >= 0
            self.now += due
            batch = self.outbox.take(self.now)
            self.tries.append(self.now)
            if self.works(self.now):
                self.outbox.sent(batch)
                self.sent.append((self.now, batch))
            else:
                self.outbox.failed(batch, self.now)
        self.now = end

    def words(self) -> list[tuple[int, int, int]]:
        return [(len(batch.raised), len(batch.ended), batch.skipped) for _, batch in self.sent]


def test_what_comes_within_a_few_seconds_is_one_message() -> None:
    line = Line()
    line.tell(alert("a"))
    line.run(GROUP - 1)
    assert line.sent == []
    line.tell(alert("b"))
    line.run(60)
    assert [(at, len(batch.raised)) for at, batch in line.sent] == [(GROUP, 2)]
    assert line.outbox.due(line.now) is None


def test_the_end_of_what_was_told_is_told() -> None:
    line = Line()
    line.tell(alert())
    line.run(10)
    line.tell(alert(until=20.0))
    line.run(10)
    assert line.words() == [(1, 0, 0), (0, 1, 0)]


def test_without_send_resolved_it_is_not_and_the_next_one_is_told_again() -> None:
    line = Line(send_resolved=False)
    for since in (10.0, 30.0):
        line.tell(alert(since=since))
        line.run(10)
        line.tell(alert(since=since, until=since + 5))
        line.run(10)
    assert line.words() == [(1, 0, 0), (1, 0, 0)]


def test_what_was_over_before_anybody_was_told_is_only_counted() -> None:
    line = Line()
    line.tell(alert("a"), alert("b"))
    line.tell(alert("a", until=11.0))
    line.run(60)
    assert line.words() == [(1, 0, 2)]
    assert line.sent[0][1].raised == (alert("b"),)


@pytest.mark.parametrize(("repeats", "expected"), [(False, [(0, 0, 2)]), (True, [])])
def test_a_message_that_only_counts_is_for_those_who_read_it(
    repeats: bool, expected: list[tuple[int, int, int]]
) -> None:
    line = Line(repeats=repeats)
    line.tell(alert(), alert(until=11.0))
    line.run(60)
    assert line.words() == expected


@pytest.mark.parametrize("per_minute", [1, 3, 10])
def test_a_storm_is_never_more_messages_in_a_minute_than_allowed_and_its_end_is_told_truly(per_minute: int) -> None:
    random, line = Random(7), Line(per_minute=per_minute)
    stands: dict[str, Alert] = {}
    told = changes = 0
    for _ in range(3000):
        backend = f"b{random.randrange(40)}"
        if backend in stands:
            line.tell(replace(stands.pop(backend), until=line.now))
        else:
            stands[backend] = alert(backend, since=line.now)
            line.tell(stands[backend])
        changes += 1
        line.run(random.random())
    line.run(3 * MINUTE)
    for at, _ in line.sent:
        assert sum(at <= other < at + MINUTE for other, _ in line.sent) <= per_minute
    known: dict[str, Alert] = {}
    for _, batch in line.sent:
        for each in batch.raised:
            known[each.backend] = each
        for each in batch.ended:
            assert known.pop(each.backend).name == each.name
        told += len(batch.raised) + len(batch.ended) + batch.skipped
    assert known == stands
    assert told == changes
    assert len(line.sent) < changes / 5


def test_a_failure_is_tried_again_later_and_later_with_the_newest_word() -> None:
    line = Line(works=lambda now: now > 1000, per_minute=1000)
    line.tell(alert("a"), alert("b"))
    line.run(100)
    line.tell(alert("b", until=99.0), alert("c"))
    line.run(2000)
    pauses = [later - earlier for earlier, later in zip(line.tries, line.tries[1:], strict=False)]
    assert pauses[:5] == [max(FIRST_PAUSE * 2**n, GROUP) for n in range(5)]
    assert max(pauses) == LONGEST_PAUSE
    assert line.words() == [(2, 0, 2)]
    assert {each.backend for each in line.sent[0][1].raised} == {"a", "c"}


def test_a_longer_pause_that_is_asked_for_is_kept_within_reason() -> None:
    outbox = Outbox(per_minute=10, send_resolved=True, repeats=False)
    outbox.tell([alert()], 0.0)
    assert outbox.failed(outbox.take(3.0), 3.0, wait=60.0) == 60.0
    assert outbox.due(3.0) == 60.0
    assert outbox.failed(outbox.take(63.0), 63.0, wait=99_999.0) == LONGEST_PAUSE


def test_an_end_that_comes_while_the_message_is_on_its_way_is_told_afterwards() -> None:
    outbox = Outbox(per_minute=10, send_resolved=True, repeats=False)
    outbox.tell([alert()], 0.0)
    batch = outbox.take(3.0)
    outbox.tell([alert(until=4.0)], 4.0)
    outbox.sent(batch)
    assert outbox.take(7.0) == Batch((), (alert(until=4.0),), 0)
    quiet = Outbox(per_minute=10, send_resolved=False, repeats=True)
    quiet.tell([alert()], 0.0)
    batch = quiet.take(3.0)
    quiet.tell([alert(until=4.0)], 4.0)
    quiet.sent(batch)
    assert quiet.due(5.0) is None, "it is not repeated for ever"


def test_news_that_come_while_a_message_fails_are_not_lost() -> None:
    outbox = Outbox(per_minute=10, send_resolved=True, repeats=False)
    outbox.tell([alert("a"), alert("b")], 0.0)
    batch = outbox.take(3.0)
    outbox.tell([alert("a", until=4.0), alert("c")], 4.0)
    pause = outbox.failed(batch, 5.0)
    assert outbox.take(5.0 + pause) == Batch((alert("b"), alert("c")), (), 2)


def test_an_alertmanager_is_told_again_what_stands_until_it_ends() -> None:
    line = Line(repeats=True)
    line.tell(alert("a"))
    line.run(GROUP + 3 * REPEAT)
    assert line.words() == [(1, 0, 0)] * 4
    line.tell(alert("b"))
    line.run(10)
    assert line.words()[-1] == (2, 0, 0)
    line.tell(alert("a", until=900.0), alert("b", until=900.0))
    line.run(2000)
    assert line.words()[-1] == (0, 2, 0)
    assert line.outbox.due(line.now) is None


def test_what_waits_is_bounded() -> None:
    line = Line(works=lambda now: False)
    for number in range(MOST + 50):
        line.tell(alert(f"b{number}"))
    batch = line.outbox.take(5.0)
    assert (len(batch.raised), batch.skipped) == (MOST, 50)
    assert batch.raised[-1].backend == f"b{MOST + 49}"


# --- formats -------------------------------------------------------------------------------------------------

BATCH = Batch(
    (alert("gpu1"), replace(alert("", name="no_backend"), severity="critical")), (alert("b", 10.0, 250.0),), 3
)


def test_formats_are_those_of_the_configuration() -> None:
    assert set(FORMATS) == set(FORMAT_NAMES)


def test_slack_gets_a_text_in_which_nothing_is_a_link_or_a_call() -> None:
    (text,) = json.loads(render("slack", BATCH, SENDER, 300.0)).values()
    first, *lines = text.splitlines()
    assert first == "*Fairlead* on lb1:9900"
    assert lines == [
        ":warning: warning: *errors gpu1*: backend gpu1 failed &lt;b&gt;&amp;",
        ":red_circle: critical: *no_backend*: backend  failed &lt;b&gt;&amp;",
        ":white_check_mark: ended: *errors b*, after 4 min",
        "and 3 changes since the last message that are over already",
    ]


def test_a_long_list_is_cut() -> None:
    many = Batch(tuple(alert(f"b{number}") for number in range(50)), ())
    (text,) = json.loads(render("slack", many, SENDER, 300.0)).values()
    assert len(text.splitlines()) == LISTED + 2
    assert text.endswith("and 30 more: GET /api/alerts")


def test_alertmanager_gets_what_its_api_describes() -> None:
    first, whole, over = json.loads(render("alertmanager", BATCH, SENDER, 300.0))
    assert first == {
        "labels": {
            "alertname": "FairleadBackendErrors", "alert": "errors", "severity": "warning", "job": "fairlead",
            "instance": "lb1:9900", "backend": "gpu1",
        },
        "annotations": {"summary": "errors: gpu1", "description": "backend gpu1 failed <b>&"},
        "startsAt": "2026-11-18T11:06:50.000Z",
        "endsAt": "2026-11-18T11:17:40.000Z",
    }  # fmt: skip
    assert "backend" not in whole["labels"], "an empty label is none"
    assert (over["startsAt"], over["endsAt"]) == ("2026-11-18T11:06:50.000Z", "2026-11-18T11:10:50.000Z")


def test_labels_do_not_change_while_an_alert_stands() -> None:
    def labels(at: float, value: float) -> object:
        (one,) = json.loads(render("alertmanager", Batch((replace(alert(), value=value),), ()), SENDER, at))
        return one["labels"], one["startsAt"]

    assert labels(20.0, 0.5) == labels(500.0, 0.9)


def test_json_has_everything() -> None:
    told = json.loads(render("json", BATCH, SENDER, 300.0))
    assert {name: told[name] for name in ("version", "instance", "skipped")} == {
        "version": 1, "instance": "lb1:9900", "skipped": 3,
    }  # fmt: skip
    assert told["raised"][0] == {
        "alert": "errors", "severity": "warning", "backend": "gpu1", "since": 1_795_000_010.0, "until": None,
        "value": 0.5, "message": "backend gpu1 failed <b>&",
    }  # fmt: skip
    assert told["ended"][0]["until"] == 1_795_000_250.0


@pytest.mark.parametrize(
    ("format", "url", "expected"),
    [
        ("slack", "https://hooks.test/services/T/B/x", "https://hooks.test/services/T/B/x"),
        ("json", "https://me.test/?key=1", "https://me.test/?key=1"),
        ("alertmanager", "http://am:9093", "http://am:9093/api/v2/alerts"),
        ("alertmanager", "http://am:9093/prefix/", "http://am:9093/prefix/api/v2/alerts"),
        ("alertmanager", "http://am:9093/api/v2/alerts", "http://am:9093/api/v2/alerts"),
    ],
)
def test_where_it_is_sent(format: str, url: str, expected: str) -> None:
    assert url_of(format, url) == expected
