"""What does a message to a webhook look like? One small function per format, and the table of them.

slack         {"text": ...}, as Slack, Mattermost, Discord (URL/slack) and others take it
alertmanager  the list that POST /api/v2/alerts takes, see its OpenAPI description
json          everything, for programs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from fairlead.control.webhook_outbox import REPEAT, Batch
from fairlead.core.alerts.engine import Alert
from fairlead.core.alerts.table import BY_NAME, CRITICAL

LISTED: Final = 20  # alerts that a message for people names
ALERTMANAGER_PATH: Final = "/api/v2/alerts"
LASTS: Final = 3 * REPEAT  # seconds after which an Alertmanager takes an alert for ended that it hears no more of


@dataclass(frozen=True, slots=True)
class Sender:
    """Who tells, and how his clock goes."""

    instance: str  # HOST:PORT of the admin listener, as other machines may know it
    offset: float  # unix time less the host's clock

    def wall(self, at: float) -> float:
        return at + self.offset


def slack(batch: Batch, sender: Sender, now: float) -> Any:
    lines = [_line(alert) for alert in (*batch.raised, *batch.ended)]
    more = len(lines) - LISTED
    lines = lines[:LISTED]
    if more > 0:
        lines.append(f"and {more} more: GET /api/alerts")
    if batch.skipped:
        lines.append(f"and {batch.skipped} changes since the last message that are over already")
    return {"text": f"*Fairlead* on {_safe(sender.instance)}\n" + "\n".join(lines)}


def _line(alert: Alert) -> str:
    name = f"{alert.name} {alert.backend}".strip()
    if alert.until is not None:
        return f":white_check_mark: ended: *{_safe(name)}*, after {_time(alert.until - alert.since)}"
    sign = ":red_circle:" if alert.severity == CRITICAL else ":warning:"
    return f"{sign} {alert.severity}: *{_safe(name)}*: {_safe(alert.message)}"


def _safe(text: str) -> str:
    """A backend's name must not become a link or call everybody in the channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def alertmanager(batch: Batch, sender: Sender, now: float) -> Any:
    return [_known(alert, sender, now) for alert in (*batch.raised, *batch.ended)]


def _known(alert: Alert, sender: Sender, now: float) -> dict[str, Any]:
    """Labels say which alert it is, so they stay the same as long as it stands."""
    rule = BY_NAME[alert.name]
    labels = {
        "alertname": rule.title, "alert": alert.name, "severity": alert.severity, "job": "fairlead",
        "instance": sender.instance, "backend": alert.backend,
    }  # fmt: skip
    about = alert.backend or "the fleet"
    return {
        "labels": {name: value for name, value in labels.items() if value},  # an empty label is none
        "annotations": {"summary": f"{alert.name}: {about}", "description": alert.message},
        "startsAt": _rfc3339(sender.wall(alert.since)),
        "endsAt": _rfc3339(sender.wall(now + LASTS if alert.until is None else alert.until)),
    }


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(batch: Batch, sender: Sender, now: float) -> Any:
    return {
        "version": 1,
        "instance": sender.instance,
        "raised": [row(alert, sender.offset) for alert in batch.raised],
        "ended": [row(alert, sender.offset) for alert in batch.ended],
        "skipped": batch.skipped,
    }


def row(alert: Alert, offset: float) -> dict[str, Any]:
    """An alert as the admin API shows it, too; `offset` is unix time less the host's clock."""
    return {
        "alert": alert.name,
        "severity": alert.severity,
        "backend": alert.backend,
        "since": round(alert.since + offset, 3),
        "until": None if alert.until is None else round(alert.until + offset, 3),
        "value": round(alert.value, 4),
        "message": alert.message,
    }


Format = Callable[[Batch, Sender, float], Any]
FORMATS: Final[dict[str, Format]] = {"slack": slack, "alertmanager": alertmanager, "json": plain}


def render(format: str, batch: Batch, sender: Sender, now: float) -> bytes:
    """The message's body."""
    return msgspec.json.encode(FORMATS[format](batch, sender, now))


def url_of(format: str, url: str) -> str:
    """Where it is sent."""
    if format == "alertmanager" and not url.endswith(ALERTMANAGER_PATH):
        return url.rstrip("/") + ALERTMANAGER_PATH
    return url
