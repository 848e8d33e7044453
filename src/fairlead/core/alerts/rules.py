"""When is something wrong enough to tell a person? The settings, and one small function per alert.

Each function looks at a `Scene` and yields what it finds: a subject (a backend, or "" for the fleet), a number, and a
sentence that says what to do. `standing` holds the subjects for which the alert stands already: the limit is a little
lower for these, so that none flaps. How long it has to be so before it is raised is in table.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fairlead.core.alerts.facts import ANSWERED, CONTESTED, ERRORS, PLACED, TOKENS, TTFT, BackendFacts, FleetFacts
from fairlead.core.alerts.windows import Course, Windows

HYSTERESIS: Final = 0.05  # a share has to fall this far below the threshold to clear
EASE: Final = 0.75  # other numbers have to fall below this part of their limit
EXPLAINED: Final = 1.1  # a share up to this many times what the weights ask for is as configured
GROWTH: Final = 0.01  # requests per second: a queue that grows slower does not count as growing
MIDDLES: Final = 0.25  # of the window, from the older half's middle to the newer half's beginning
STALE_SECONDS: Final = 30.0  # an engine's numbers older than this, or than five readings, mislead
STALE_READINGS: Final = 5
MINUTE: Final = 60.0
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ShareRules:
    """One backend takes most of the traffic."""

    threshold: float = 0.8  # of what another could have taken
    window: float = 60.0  # seconds
    min_requests: int = 20  # in the window; fewer say nothing


@dataclass(frozen=True, slots=True)
class ErrorRules:
    """A backend fails."""

    threshold: float = 0.1  # of the tries that ended
    window: float = 300.0
    min_errors: int = 5  # fewer are stray ones


@dataclass(frozen=True, slots=True)
class QueueRules:
    """An engine's queue grows."""

    waiting: int = 10  # requests; a shorter queue says nothing
    window: float = 600.0


@dataclass(frozen=True, slots=True)
class TtftRules:
    """Clients wait too long for the first token."""

    target: float  # seconds
    within: float = 0.95  # the part of the answers that has to begin in this time
    window: float = 300.0
    min_requests: int = 20


@dataclass(frozen=True, slots=True)
class AlertRules:
    """When to raise."""

    share: ShareRules = ShareRules()
    tokens: ShareRules = ShareRules(window=300.0, min_requests=100)
    errors: ErrorRules = ErrorRules()
    queue: QueueRules = QueueRules()
    ttft: TtftRules | None = None
    slow: float = 3.0  # times what the peers take
    stale: float = STALE_SECONDS  # seconds: older metrics mislead
    certificate: float = 14 * DAY  # before its end
    off: frozenset[str] = frozenset()  # names of alerts that nobody wants

    def lengths(self) -> frozenset[float]:
        """Of all windows."""
        each = [self.share.window, self.tokens.window, self.errors.window, MINUTE]
        return frozenset([*each, *([self.ttft.window] if self.ttft else [])])


class Found(NamedTuple):
    """Something is wrong."""

    backend: str  # "": with the fleet
    value: float
    message: str


@dataclass(slots=True)
class Scene:
    """What rules look at."""

    rules: AlertRules
    facts: FleetFacts = field(default_factory=FleetFacts)
    windows: Windows = field(default_factory=Windows)
    queues: dict[str, Course] = field(default_factory=dict)  # requests that wait, by backend
    overflows: int = 0  # retries that the budget did not allow, in the last minute


Findings = Iterator[Found]
Standing = Collection[str]


# --- the fleet as a whole ------------------------------------------------------------------------------------


def no_backend(scene: Scene, standing: Standing) -> Findings:
    backends = scene.facts.backends
    if backends and not any(b.up and b.wanted for b in backends):
        disabled = sum(not b.wanted for b in backends)
        why = f" ({disabled} of them drained or disabled on purpose)" if disabled else ""
        yield Found(
            "", float(len(backends)),
            f"none of the {len(backends)} backends{why} can take requests, and clients get 503: start the engines; "
            "GET /api/backends says in `reason` what is wrong with each",
        )  # fmt: skip


def panic(scene: Scene, standing: Standing) -> Findings:
    models = scene.facts.panics
    if models and any(b.up and b.wanted for b in scene.facts.backends):  # else no_backend says it
        yield Found(
            "", float(len(models)),
            f"too few backends of {_listed(models)} are usable, so bad ones are tried as well: look in GET "
            "/api/backends for those that are down or rest, and bring them back",
        )  # fmt: skip


def retry_budget(scene: Scene, standing: Standing) -> Findings:
    lost = scene.overflows
    if lost >= (1 if standing else 5):
        yield Found(
            "", float(lost),
            f"{lost} failed requests were not tried elsewhere in the last minute, as retries.budget is spent: the "
            "fleet as a whole is failing; look at fairlead_backend_errors_total by kind, and raise the budget only if "
            "it has room",
        )  # fmt: skip


def slow_first_token(scene: Scene, standing: Standing) -> Findings:
    rules, bounds = scene.rules.ttft, scene.facts.bounds
    if rules is None:
        return
    counts = scene.windows.buckets(rules.window, TTFT, len(bounds) + 1)
    total = sum(counts)
    if total < rules.min_requests:
        return
    late = 1.0 - _within(counts, bounds, rules.target) / total
    allowed = 1.0 - rules.within
    if late > allowed * (EASE if standing else 1.0):
        yield Found(
            "", late,
            f"{late:.1%} of {total} answers began later than {rules.target:g} s (allowed: {allowed:.1%}): add backends "
            "if all have a queue (engine_waiting in GET /api/backends), else look at the slow one with GET "
            "/api/explain/ID",
        )  # fmt: skip


def certificate(scene: Scene, standing: Standing) -> Findings:
    near = sorted((left, where) for where, left in scene.facts.certificates if left < scene.rules.certificate)
    if near:
        days = near[0][0] / DAY
        when = f"ends in {days:.0f} days" if days > 1 else f"ends in {days * 24:.0f} hours" if days > 0 else "has ended"
        more = f" (and {len(near) - 1} more)" if len(near) > 1 else ""
        yield Found(
            "", round(days, 3),
            f"the certificate of {near[0][1]}{more} {when}: put a new one into the same files, it is taken up without "
            "a restart",
        )  # fmt: skip


def reload_refused(scene: Scene, standing: Standing) -> Findings:
    if scene.facts.refused:
        yield Found(
            "", 1.0,
            "the last reload was refused and an older configuration is in force: see `loaded.last_error` in "
            "GET /api/config, mend the file (fairlead check FILE) and reload",
        )  # fmt: skip


# --- one backend ---------------------------------------------------------------------------------------------


def backend_down(scene: Scene, standing: Standing) -> Findings:
    backends = scene.facts.backends
    if not any(b.up and b.wanted for b in backends):  # no_backend says it
        return
    for b in backends:
        if b.wanted and not b.up:
            yield Found(
                b.id, 1.0,
                f"backend {b.id} fails its health checks and gets no requests: GET /api/backends says why; look at the "
                "engine's log, start it again, or take it out of the configuration",
            )  # fmt: skip


def errors(scene: Scene, standing: Standing) -> Findings:
    rules = scene.rules.errors
    failed, _ = scene.windows.added(rules.window, ERRORS)
    answered, _ = scene.windows.added(rules.window, ANSWERED)
    for id, count in failed.items():
        ended = count + answered[id]
        limit = rules.threshold * (EASE if id in standing else 1.0)
        if count >= rules.min_errors and count > limit * ended:
            yield Found(
                id, count / ended,
                f"backend {id} failed {count} of {ended} tries in the last {rules.window / 60:.0f} min: see "
                "fairlead_backend_errors_total by kind (connect: dead or restarting, timeout: hung or overloaded) and "
                "the engine's log",
            )  # fmt: skip


def queue_growing(scene: Scene, standing: Standing) -> Findings:
    rules = scene.rules.queue
    for id, course in scene.queues.items():
        waiting = next((b.waiting for b in scene.facts.backends if b.id == id), None)
        again = id in standing
        if waiting is None or waiting <= rules.waiting * (EASE if again else 1.0) or not course.full:
            continue
        if course.rise() > (0.0 if again else GROWTH * MIDDLES * rules.window):
            yield Found(
                id, waiting,
                f"{waiting:.0f} requests wait in the queue of backend {id}, which has grown for "
                f"{rules.window / 60:.0f} min: if all queue, add backends or have clients send less; if only "
                "this one does, look at its KV cache and at its weight",
            )  # fmt: skip


def slow_backend(scene: Scene, standing: Standing) -> Findings:
    """Only while it has traffic: what was learned before is no news."""
    answered, _ = scene.windows.added(MINUTE, ANSWERED)
    for b in scene.facts.backends:
        limit = scene.rules.slow * (EASE if b.id in standing else 1.0)
        if b.usable and b.pace is not None and b.pace > limit and answered[b.id]:
            yield Found(
                b.id, b.pace,
                f"backend {b.id} takes {b.pace:.1f} times as long as its peers for the same work: look for another "
                "process on its GPU, heat, or a full KV cache; if the machine is meant to be slower, set weights or "
                "raise alerts.slow",
            )  # fmt: skip


def distrusted_view(scene: Scene, standing: Standing) -> Findings:
    for b in scene.facts.backends:
        if b.distrusted and b.up:
            yield Found(
                b.id, 1.0,
                f"backend {b.id} does not have cached what it should have, so requests are placed as if it had "
                "nothing: see whether its cache was reset, is smaller than its metrics say, or has other users",
            )  # fmt: skip


def stale_metrics(scene: Scene, standing: Standing) -> Findings:
    """Only with requests: an engine without work may have nothing to tell."""
    placed, _ = scene.windows.added(MINUTE, PLACED)
    for b in scene.facts.backends:
        busy = b.inflight > 0 or placed[b.id] > 0
        if b.up and busy and b.metrics_age is not None and b.metrics_age > scene.rules.stale:
            yield Found(
                b.id, b.metrics_age,
                f"the metrics of backend {b.id} are {b.metrics_age:.0f} s old, so its queue is known less well: see "
                "`metrics_problem` in GET /api/backends, and metrics_url if they are elsewhere",
            )  # fmt: skip


def share_of_requests(scene: Scene, standing: Standing) -> Findings:
    return _share(scene, standing, scene.rules.share, CONTESTED, "requests")


def share_of_tokens(scene: Scene, standing: Standing) -> Findings:
    return _share(scene, standing, scene.rules.tokens, TOKENS, "tokens")


def _share(scene: Scene, standing: Standing, rules: ShareRules, place: int, what: str) -> Findings:
    """Counted is only what another backend could have taken as well."""
    each, total = scene.windows.added(rules.window, place)
    requests = scene.windows.added(rules.window, CONTESTED)[1]
    usable = [b for b in scene.facts.backends if b.usable]
    if requests < rules.min_requests or not total or len(usable) < 2:
        return
    for b in usable:
        share = each[b.id] / total
        limit = rules.threshold - (HYSTERESIS if b.id in standing else 0.0)
        if share > limit and share > EXPLAINED * _asked(b, usable, scene.facts.backends):
            yield Found(
                b.id, share,
                f"backend {b.id} got {share:.0%} of {total} {what} in the last {rules.window:.0f} s while another "
                "healthy backend could have taken some: see share and state in GET /api/backends, and GET "
                "/api/explain/ID for a few requests; if it is meant, set weights",
            )  # fmt: skip


def _asked(backend: BackendFacts, usable: list[BackendFacts], backends: tuple[BackendFacts, ...]) -> float:
    """The share that set weights ask for; 0 where nobody set one."""
    if all(b.weight is None for b in backends):
        return 0.0
    return _weight(backend) / sum(_weight(b) for b in usable)


def _weight(backend: BackendFacts) -> float:
    return 1.0 if backend.weight is None else backend.weight


def _within(counts: list[int], bounds: tuple[float, ...], target: float) -> float:
    """How many were not above the target, if they lie evenly in their buckets."""
    seen = low = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if target < bound:
            return seen + count * (target - low) / (bound - low)
        seen, low = seen + count, bound
    return seen


def _listed(models: tuple[str, ...]) -> str:
    shown = ", ".join(models[:3])
    return f"{shown} and {len(models) - 3} more models" if len(models) > 3 else shown
