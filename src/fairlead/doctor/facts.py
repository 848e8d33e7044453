"""What did a look at an engine find out? Plain facts; whether they are good or bad is for the checks to say.

Rule 1: None means "could not be told from outside", never "no". A check that meets None says nothing, or says so.
Rule 2: texts that come from an engine are cut and printable, because they end up on a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Trouble(Enum):
    """Why an engine could not be asked at all."""

    DNS = "its host name is not known"
    REFUSED = "connection refused"
    CONNECT_TIMEOUT = "the connection was not accepted in time"
    NO_ANSWER = "it accepts connections and does not answer"
    TLS_UNTRUSTED = "its TLS certificate is not trusted"
    TLS = "the TLS handshake failed"
    NOT_HTTP = "what it answers is not HTTP"
    BROKEN = "the connection broke before an answer"


class MetricsState(Enum):
    """What the engine's own metrics page tells."""

    READ = "read"
    NONE = "this kind of engine has none"
    ABSENT = "no page"
    EMPTY = "a page without a metric of this engine"
    UNKNOWN = "a page whose metrics have names that are not known"


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of /v1/models."""

    id: str
    longest: int | None = None  # tokens of prompt and answer
    root: str | None = None  # where its weights came from, as the engine was told
    is_adapter: bool = False  # LoRA on top of another entry


@dataclass(frozen=True, slots=True)
class Generation:
    """What became of a fixed prompt sent twice, one token asked for each time."""

    model: str
    error: str = ""  # in words; empty: both were answered
    prompt_tokens: int | None = None  # as the usage tells
    has_usage: bool = False
    has_details: bool = False  # usage.prompt_tokens_details.cached_tokens was there
    cached: int | None = None  # tokens of the second prompt that came from the cache, as its usage tells
    hits: float | None = None  # by how much the engine's counter of hits grew meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """Everything about one engine."""

    name: str  # as the user named it
    url: str
    seconds: float = 0.0  # that the look took
    trouble: Trouble | None = None
    engine: str = ""  # dialect
    title: str = ""
    version: str | None = None
    health: int | None = None  # status of the health page; None: it gave no answer
    health_path: str = "/health"
    models_status: int | None = None  # status of /v1/models
    models: tuple[Model, ...] = ()
    is_engine: bool = True
    is_fairlead: bool = False
    is_loopback: bool = False  # only this machine can reach it under this address
    is_public: bool | None = None  # the address is one of the internet
    is_open: bool | None = None  # it answers without a key
    metrics: MetricsState | None = None
    metrics_url: str = ""
    block_tokens: int | None = None
    prefix_caching: bool | None = None  # as the engine itself says
    events: bool | None = None
    queue_limit: bool | None = None
    sampling: Mapping[str, str] | None = None  # defaults for requests that name none
    keep_alive: float | None = None  # seconds until it closed an idle connection, or its header says so
    keep_alive_open: float | None = None  # it was still open after so many seconds
    clock_ahead: float | None = None  # seconds by which its Date is ahead of ours
    dev_pages: tuple[str, ...] = ()
    tokenization: Mapping[str, str] = field(default_factory=dict)  # model -> fingerprint of a sentence's token ids
    generation: Generation | None = None  # None: not tried
    max_connections: int | None = None  # Fairlead's own limit for it

    @property
    def answers(self) -> bool:
        """It is an engine and can be judged as one."""
        return self.trouble is None and self.is_engine and not self.is_fairlead
