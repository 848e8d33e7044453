"""What is asked of the fleet? Requests with their arrival times, the same for every policy.

Several tenants, each with a system prompt of its own; conversations of up to six turns, each turn holding all that was
said before. Prompts have 200 to 8,000 tokens, answers 20 to 300.
Rule 1: pure. The seed decides everything; the same seed gives the same bytes at the same times.
Rule 2: open loop. Arrivals are a Poisson process and do not wait for answers: a slow fleet gets no mercy.
Rule 3: a conversation's earlier answers are those that the emulated engines give, whichever of them is asked (they
are a function of the prompt), so the next turn can find them in a cache though nothing had to be awaited.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from fairlead.emulator.text import WORDS, Message, output_text, output_words, render_chat, seed_of, token_count

MODEL: Final = "demo"
SHORTEST, LONGEST = 200, 8_000  # prompt tokens
LEAST, MOST = 20, 300  # answer tokens
MOST_TURNS: Final = 6
THINKING_SECONDS: Final = 2.0  # least time between two turns of a conversation
GOES_ON: Final = 0.6  # how often an arrival is the next turn of a conversation, where one is due


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer of the fleet."""

    name: str
    system_tokens: int
    weight: float  # of all new conversations


TENANTS: Final = (
    Tenant("support", 1_400, 5),
    Tenant("coding", 3_200, 4),
    Tenant("search", 700, 4),
    Tenant("contracts", 4_800, 2),
    Tenant("travel", 1_000, 2),
    Tenant("tutor", 450, 2),
    Tenant("triage", 2_200, 1),
    Tenant("notes", 160, 3),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    at: float  # seconds after the start
    body: bytes
    prompt_tokens: int
    output_tokens: int
    tenant: str
    conversation: str
    turn: int  # from 1


@dataclass(slots=True)
class _Conversation:
    name: str
    tenant: str
    messages: list[Message]
    asked_at: float = 0.0
    turns: int = 0
    tokens: int = 0  # of everything said
    stops_after: int = field(default=MOST_TURNS)


def workload(seed: int, seconds: float, rate: float) -> Iterator[Ask]:
    """Requests for `seconds` at `rate` per second, in order of arrival; each is made when it is asked for."""
    rng = random.Random(f"fairlead demo {seed}")  # noqa: S311 -- no secret
    systems = {tenant.name: f"{tenant.name}: {_said(rng, tenant.system_tokens)}" for tenant in TENANTS}
    weights = [tenant.weight for tenant in TENANTS]
    running: list[_Conversation] = []
    started = 0
    at = rng.expovariate(rate)
    while at < seconds:
        due = [c for c in running if at - c.asked_at >= THINKING_SECONDS]
        if due and rng.random() < GOES_ON:
            talk = rng.choice(due)
        else:
            started += 1
            (tenant,) = rng.choices(TENANTS, weights)
            talk = _Conversation(f"{seed}-{started}", tenant.name, [Message("system", systems[tenant.name])])
            talk.tokens = token_count(render_chat(talk.messages))
            talk.stops_after = rng.randint(1, MOST_TURNS)
            running.append(talk)
        yield _turn(rng, talk, at, seed)
        if talk.turns >= talk.stops_after or talk.tokens > LONGEST - 2 * SHORTEST:
            running.remove(talk)
        at += rng.expovariate(rate)


def _turn(rng: random.Random, talk: _Conversation, at: float, seed: int) -> Ask:
    """The conversation's next question; takes its answer into the conversation."""
    median = 220 if talk.turns else 320
    wanted = rng.lognormvariate(0.0, 0.9) * median
    if rng.random() < 0.08:  # a document is pasted
        wanted += rng.uniform(1_000, 4_000)
    most = LONGEST - talk.tokens - 16  # what the roles' marks take
    tokens = min(max(int(wanted), 30, SHORTEST - talk.tokens), most)
    output = min(max(int(rng.lognormvariate(0.0, 0.7) * 80), LEAST), MOST)
    talk.messages.append(Message("user", _said(rng, tokens)))
    prompt = render_chat(talk.messages)
    talk.turns += 1
    talk.asked_at = at
    messages = [{"role": m.role, "content": m.content} for m in talk.messages]
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": output,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": talk.tenant,
    }
    ask = Ask(at, msgspec.json.encode(body), token_count(prompt), output, talk.tenant, talk.name, talk.turns)
    talk.messages.append(Message("assistant", output_text(output_words(seed_of(prompt, seed)), output).decode()))
    talk.tokens = token_count(render_chat(talk.messages))
    return ask


def _said(rng: random.Random, tokens: int) -> str:
    """Words of one token each."""
    return b"".join(rng.choices(WORDS, k=tokens)).decode()
