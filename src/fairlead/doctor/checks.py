"""What is wrong with one engine? Facts in, findings out.

Rule 1: pure; one small function per question, all of them in `CHECKS`.
Rule 2: what could not be told from outside is listed once, as `unknown`, and never guessed.
Rule 3: an engine that cannot be asked, or is none, is judged by that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fairlead.doctor.facts import EngineFacts, MetricsState, Trouble
from fairlead.doctor.findings import Finding
from fairlead.doctor.mend import CACHING, DETAILS, EVENTS, KEEP_ALIVE, KEY, METRICS, QUEUE, mend

CLOCK_SECONDS: Final = 3.0  # a Date header has whole seconds, and travels
KEEP_ALIVE_MARGIN: Final = 0.25  # seconds; a request that leaves just before the end may come too late
LONG_PROMPT: Final = 300  # tokens; a repeated prompt shorter than a block or two need not hit
WITHOUT_EVENTS: Final = frozenset({"ollama", "llamacpp", "tgi", "lmdeploy", "generic", "triton", "triton-openai"})


@dataclass(frozen=True, slots=True)
class Pool:
    """What Fairlead's side is set to."""

    keepalive: float = 4.0  # seconds after which an idle connection is closed


def check_engine(facts: EngineFacts, pool: Pool) -> list[Finding]:
    """Everything about one engine, in no particular order."""
    if facts.trouble is not None:
        return [_unreachable(facts, facts.trouble)]
    if facts.is_fairlead:
        return [_finding(facts, "another-fairlead", "this is a Fairlead", "name its engines to doctor")]
    if facts.models_status in (401, 403):
        return [
            _finding(
                facts,
                "key-refused",
                f"GET /v1/models answered {facts.models_status}",
                "give its key with --header 'Authorization: Bearer KEY', or in the config under headers",
            )
        ]
    if not facts.is_engine:
        told = "nothing" if facts.models_status is None else str(facts.models_status)
        seen = f"something answers there, but GET /v1/models gave {told} and no other page is an engine's"
        return [_finding(facts, "not-an-engine", seen, "look whether host, port and path are right")]
    return [finding for check in CHECKS for finding in check(facts, pool)]


def _finding(facts: EngineFacts, code: str, seen: str, mend: str) -> Finding:
    return Finding(code=code, engines=(facts.name,), seen=seen, mend=mend)


_HOW: Final[dict[Trouble, str]] = {
    Trouble.DNS: "look whether the name is spelled right and this machine's resolver knows it",
    Trouble.REFUSED: "nobody listens there: start the engine, or look at host and port (vLLM listens only "
    "once its model is loaded; 127.0.0.1 in --host is seen by its own machine only)",
    Trouble.CONNECT_TIMEOUT: "a firewall or a wrong address swallows the packets: open the port for this machine",
    Trouble.NO_ANSWER: "it hangs or is still loading: look at its log",
    Trouble.TLS_UNTRUSTED: "name its CA in backend_tls.ca and its name in server_name, or renew its certificate",
    Trouble.TLS: "look whether it speaks TLS at all; if not, write http:// in place of https://",
    Trouble.NOT_HTTP: "look whether the port is right, and whether it wants https://",
    Trouble.BROKEN: "look at its log; a proxy on the way, or TLS on the port, can do this too",
}


def _unreachable(facts: EngineFacts, trouble: Trouble) -> Finding:
    return _finding(facts, "unreachable", trouble.value, _HOW[trouble])


# --- does it serve? ------------------------------------------------------------------------------------------


def _health(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.health is None:
        told = "gave no answer in time"
    elif 200 <= facts.health < 300:
        return
    else:
        told = f"answered {facts.health}"
    hint = "if it has no such page, give the backend a health_path that it has, such as /v1/models"
    if facts.health is None or facts.health >= 500:
        hint = "look at its log: it is loading, overloaded or broken"
    yield _finding(facts, "unhealthy", f"GET {facts.health_path} {told}", hint)


def _models(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.models_status == 200 and not facts.models:
        yield _finding(facts, "no-models", "GET /v1/models lists none", "load a model, or set models: for the backend")


def _generation(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    tried = facts.generation
    if tried is None or not tried.error:
        return
    if tried.error.startswith("unsupported"):
        hint = "nothing to do for a model that only embeds or ranks"
        yield _finding(facts, "no-generation", f"model {tried.model!r} takes no text prompt", hint)
    else:
        hint = "try the request by hand with curl, and look at the engine's log"
        yield _finding(facts, "generation-failed", f"one token of model {tried.model!r}: {tried.error}", hint)


# --- caching and what is told about it -----------------------------------------------------------------------


def _caching(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    tried = facts.generation
    hit = None
    if tried is not None and not tried.error:
        hit = tried.cached if tried.cached is not None else tried.hits
    if facts.prefix_caching is False:
        yield _finding(facts, "prefix-caching-off", "the engine says that it is off", mend(CACHING, facts.engine))
    elif hit == 0 and tried is not None and (tried.prompt_tokens or 0) >= LONG_PROMPT:
        seen = f"a prompt of {tried.prompt_tokens} tokens was sent twice, and nothing of it came from the cache"
        if facts.prefix_caching is None:
            yield _finding(facts, "prefix-caching-off", seen, mend(CACHING, facts.engine))
        else:
            hint = "ask again on a quiet engine: a full cache evicts, and data-parallel ranks have one cache each"
            yield _finding(facts, "prefix-no-hit", f"{seen}, though caching is on", hint)


def _usage(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    tried = facts.generation
    if tried is None or tried.error:
        return
    if not tried.has_usage:
        hint = "let the engine, or the proxy in front of it, pass on `usage`"
        yield _finding(facts, "usage-missing", "its answers hold no usage", hint)
    elif not tried.has_details:
        seen = "its usage has no prompt_tokens_details.cached_tokens"
        yield _finding(facts, "usage-details-off", seen, mend(DETAILS, facts.engine))


def _metrics(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    state = facts.metrics
    if state is MetricsState.NONE:
        seen = f"{facts.title or 'this engine'} has no metrics page"
        yield _finding(facts, "no-metrics", seen, "nothing to do, or give the backend a metrics_url")
    elif state in (MetricsState.ABSENT, MetricsState.EMPTY):
        yield _finding(facts, "metrics-off", f"{facts.metrics_url}: {state.value}", mend(METRICS, facts.engine))
    elif state is MetricsState.UNKNOWN:
        hint = f"the version ({facts.version or 'unknown'}) may be newer than this Fairlead: look for an update of it"
        yield _finding(facts, "metrics-unknown", f"{facts.metrics_url}: {state.value}", hint)


def _events(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.events is False:
        yield _finding(facts, "events-off", "it publishes no cache events", mend(EVENTS, facts.engine))


# --- connections and load ------------------------------------------------------------------------------------


def _keepalive(facts: EngineFacts, pool: Pool) -> Iterator[Finding]:
    if facts.keep_alive is None or facts.keep_alive > pool.keepalive + KEEP_ALIVE_MARGIN:
        return
    shorter = max(facts.keep_alive * 0.8, 0.001)
    own = f"set keepalive: {{timeout: {_short(shorter)}s}} in Fairlead's config"
    seen = (
        f"it closes an idle connection after {_short(facts.keep_alive)} s; Fairlead keeps it {_short(pool.keepalive)} s"
    )
    yield _finding(facts, "keepalive-short", seen, f"{mend(KEEP_ALIVE, facts.engine)} {own}".strip())


def _queue(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.queue_limit is False and facts.max_connections is None:
        seen = "its queue has no limit, and the backend no max_connections"
        yield _finding(facts, "queue-unlimited", seen, mend(QUEUE, facts.engine))


# --- who can reach it ----------------------------------------------------------------------------------------


def _open(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.is_public and facts.is_open:
        seen = "its address is one of the internet, and it answers without a key"
        yield _finding(facts, "open-to-internet", seen, mend(KEY, facts.engine))


def _dev_pages(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    if facts.dev_pages:
        code = "dev-pages-local" if facts.is_loopback else "dev-pages-open"
        seen = f"pages for development are there: {', '.join(facts.dev_pages)}"
        yield _finding(facts, code, seen, "start it without VLLM_SERVER_DEV_MODE=1")


def _clock(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    ahead = facts.clock_ahead
    if ahead is not None and abs(ahead) > CLOCK_SECONDS:
        seen = f"its clock is {_short(abs(ahead))} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield _finding(facts, "clocks-apart", seen, "let both machines keep time by NTP (chrony, systemd-timesyncd)")


# --- what nobody can tell ------------------------------------------------------------------------------------


def _unknown(facts: EngineFacts, _: Pool) -> Iterator[Finding]:
    missing = []
    tried = facts.generation
    if facts.prefix_caching is None and (tried is None or (tried.cached is None and tried.hits is None)):
        missing.append("prefix caching")
    if facts.queue_limit is None and facts.max_connections is None:
        missing.append("a limit on the queue")
    if facts.sampling is None:
        missing.append("sampling defaults")
    if facts.events is None and facts.engine not in WITHOUT_EVENTS:
        missing.append("cache events")
    if facts.keep_alive is None and facts.keep_alive_open is None:
        missing.append("keep-alive time")
    if missing:
        hints = {"vllm": "compare --max-num-queued-reqs, --generation-config and --kv-events-config by hand"}
        hint = hints.get(facts.engine, "compare the options it was started with by hand")
        yield _finding(facts, "unknown", f"not told by the engine: {', '.join(missing)}", hint)


CHECKS: Final[tuple[Callable[[EngineFacts, Pool], Iterator[Finding]], ...]] = (
    _health,
    _models,
    _generation,
    _caching,
    _usage,
    _metrics,
    _events,
    _keepalive,
    _queue,
    _open,
    _dev_pages,
    _clock,
    _unknown,
)


def _short(number: float) -> str:
    """At most one decimal from ten on, two digits that count below."""
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}" if number < 10 else f"{number:.3g}"
