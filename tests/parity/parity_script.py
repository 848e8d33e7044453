"""The simulator's side: one scripted traffic over a fleet with faults, and the log of what the balancer was told.

The traffic is made of bodies, as clients send them, with shared beginnings and conversations. The simulator gets the
facts that the proxy will read from the same bytes; its engines get the tokens and KV blocks that the emulated engine
would find in them. `Scripted` adds what the simulator does not have of itself: clients that leave, ticks every
100 ms where asked for, and events of a stream that carry no token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from parity_log import DoorLog

from fairlead.core import balancer as brain
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts
from fairlead.core.policies.registry import make
from fairlead.demo.workload import Ask, workload
from fairlead.emulator.profiles import PROFILES
from fairlead.emulator.text import Message, block_hashes, output_text, output_words, render_chat, seed_of, token_count
from fairlead.sim.fleet import Fleet, Member, parse_fault
from fairlead.sim.host import MODEL, TICK, Settings, Simulation
from fairlead.sim.machine import Machine
from fairlead.sim.trace import FAILED, UNFINISHED, Request, Trace
from fairlead.wire.openai import read_facts

CHAT = b"/v1/chat/completions"
COMPLETIONS = b"/v1/completions"
SECONDS, RATE = 14.0, 22.0  # about 300 requests
BLOCK = 16  # tokens of an engine's KV block
TOO_LONG, EVERY = 10_000, 23  # tokens that fit the large engines only; one request in so many has them
SMALL_CACHE = 9_600  # tokens of the smallest engine's KV cache

# Unequal machines; the second of the fast ones comes late and leaves early.
SMALL = dataclasses.replace(PROFILES["l4-8b"], name="small", kv_tokens=SMALL_CACHE, max_model_len=SMALL_CACHE)
MEMBERS = (
    Member("fast-1", PROFILES["h100-8b"]),
    Member("fast-2", PROFILES["h100-8b"]),
    Member("middle", PROFILES["a100-8b"]),
    Member("halved", PROFILES["a100-8b"], slowdown=2.0),
    Member("small", SMALL),
)
FAULTS = (
    "join@3:fast-2",
    "crash@4-6.5:middle",
    "crash@4.05-6:small",  # with requests that the other one's crash has just sent there
    "slow@5-7:fast-1:5",
    "freeze@8-9.2:halved",
    "leave@9:fast-2",
    "crash@11.5-12.5:fast-1",
)


@dataclass(frozen=True)
class Asked:
    """One request as the client sends it, and what an engine makes of it."""

    path: bytes
    body: bytes
    session: str
    request: Request
    leaves_after: float | None = None  # seconds after its arrival its client is gone


def fleet(faults: Sequence[str] = FAULTS) -> Fleet:
    return Fleet("five unequal machines", MEMBERS).with_faults(tuple(parse_fault(text) for text in faults))


def asked(path: bytes, seed: int = 1) -> list[Asked]:
    """The traffic; some clients leave early, some prompts are too long for the smallest engine."""
    made = []
    for number, ask in enumerate(workload(seed, SECONDS, RATE)):
        if number % EVERY == EVERY - 1:
            messages = [Message("user", f"{number:<8}" + "one two and bay " * (TOO_LONG // 4))]
        else:
            messages = [Message(m["role"], m["content"]) for m in msgspec.json.decode(ask.body)["messages"]]
        made.append(_made(path, messages, ask, number))
    return made


def _made(path: bytes, messages: list[Message], ask: Ask, number: int) -> Asked:
    output = ask.output_tokens
    body: dict[str, object] = {"model": MODEL}
    if path == CHAT:
        prompt = render_chat(messages)
        body["messages"] = [{"role": m.role, "content": m.content} for m in messages]
    else:
        text = "\n".join(str(m.content) for m in messages)
        prompt = text.encode()
        body["prompt"] = text
    if number % 2:  # the others are expected to be as long as most
        body["max_tokens"] = output
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    tokens = token_count(prompt)
    answer = output_text(output_words(seed_of(prompt, 0)), output)
    hashes = block_hashes(prompt.ljust(tokens * 4, b"\0") + answer, BLOCK)
    full = tokens // BLOCK
    blocks, more = tuple(hashes[:full]), tuple(hashes[full:])
    request = Request(ask.at, tokens, output, blocks, session=ask.conversation, output_blocks=more)
    leaves = 0.05 + 0.37 * (number % 5) if number % 29 == 7 else None
    return Asked(path, msgspec.json.encode(body), ask.conversation, request, leaves)


class Scripted(Simulation):
    """A simulation whose balancer is listened to; `log` has all of it after `run`."""

    def __init__(
        self,
        asked: Sequence[Asked],
        policy: str,
        *,
        seed: int = 1,
        faults: Sequence[str] = FAULTS,
        settings: Settings | None = None,
        every_tick: bool = False,
    ) -> None:
        """`every_tick`: 100 ms apart from the beginning, as in the proxy, not only before arrivals."""
        trace = Trace("scripted", [a.request for a in asked], BLOCK)
        super().__init__(trace, fleet(faults), make(policy), seed=seed, settings=settings)
        self.asked = asked
        self.log = DoorLog(self.balancer)
        # vLLM's chat stream opens with an event for the role, which the proxy counts until it knows better.
        self._openings = int(asked[0].path == CHAT)
        self.log.before_tick = self._count_openings
        self._opened: set[Lease] = set()
        if every_tick:
            self._at(TICK, self._tick_always)

    def facts(self, index: int) -> Facts:
        self.log.arriving = index
        asked = self.asked[index]
        facts = read_facts(asked.path, asked.body, self.balancer.uses_prefixes)
        assert facts is not None
        if self.balancer.policy.name == "session":
            facts.session = asked.session
        if asked.leaves_after is not None:
            self._at(self.now + asked.leaves_after, self._client_leaves, index)
        return facts

    def _client_leaves(self, index: int) -> None:
        outcome = self.outcomes[index]
        if outcome.status != UNFINISHED:
            return
        backend = self._by_name[outcome.backend]
        if backend.frozen_at is None:
            self._results(backend, backend.engine.advance(self.now))
        lease = backend.running.pop(index, None)
        if lease is not None:
            backend.engine.abort(index, self.now)
            self.balancer.finish(lease, brain.CLIENT_GONE, self.now, reason="client_gone")
            self._end(outcome, FAILED)
        self._wake(backend)

    def _tick_always(self) -> None:
        self._tick()
        self._at(self.now + TICK, self._tick_always)

    def _count_openings(self) -> None:
        for backend in self._backends:
            until = self.now if backend.frozen_at is None else backend.frozen_at
            anew = {index for index, _ in backend.engine.progress(until)}  # others were preempted: their count stays
            for index, lease in backend.running.items():
                if lease.first_token_at is not None and (index in anew or lease not in self._opened):
                    lease.produced += self._openings
                    self._opened.add(lease)

    def _crash(self, backend: Machine) -> None:
        self.log.note("down", self.now, backend.name)
        super()._crash(backend)

    def _restart(self, backend: Machine) -> None:
        self.log.note("up", self.now, backend.name)
        super()._restart(backend)
