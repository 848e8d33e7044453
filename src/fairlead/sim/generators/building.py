"""What generated workloads are built of: texts that grow, random draws, and requests put in order.

Rule 1: a block's hash depends on all that stands before its end, as in an engine: two prompts have equal blocks exactly
        as far as their texts are equal and the blocks are full.
Rule 2: each conversation draws from chance of its own, so that a change of rate or of length leaves the others alone.
Rule 3: nothing here is without bounds: too many requests or blocks are refused before memory is gone.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from xxhash import xxh3_64_intdigest

from fairlead.sim.trace import NO_REQUEST, Request

MAX_REQUESTS: Final = 2_000_000
MAX_BLOCKS: Final = 60_000_000  # block hashes of all requests: about half a gigabyte
_SERVICE: Final = 1.0  # seconds that an answer is thought to take, for the order of requests in a trace only


class WorkloadError(ValueError):
    """A workload that cannot be made; the text says which part of it, and what would do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A workload's parameters, all of them, and its seed."""

    kind: str
    seed: int
    values: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def whole(self, name: str) -> int:
        return int(self.values[name])

    def chance(self, *purpose: object) -> Random:
        """Random numbers for one purpose, whatever else is drawn."""
        return Random(" ".join(map(str, (self.kind, self.seed, *purpose))))  # noqa: S311 -- no secret

    def text(self) -> Text:
        return Text(self.whole("block_tokens"), xxh3_64_intdigest(f"{self.kind} {self.seed}".encode()))


class Text:
    """Tokens that were said so far, as the chained hashes of their full blocks."""

    __slots__ = ("_last", "block", "chain", "tokens")

    def __init__(self, block: int, root: int) -> None:
        self.block = block
        self.chain: list[int] = []
        self.tokens = 0
        self._last = root  # of all that was said, the open block included

    def fork(self) -> Text:
        """A text that begins as this one and goes on in its own way."""
        other = Text(self.block, self._last)
        other.chain, other.tokens = self.chain.copy(), self.tokens
        return other

    def say(self, piece: str, tokens: int) -> None:
        """Append a piece; its name stands for its words, so equal names have to mean equal lengths."""
        name, mixed, pack, block = (
            xxh3_64_intdigest(piece.encode()),
            xxh3_64_intdigest,
            struct.Struct("<QQQ").pack,
            self.block,
        )
        done, last = 0, self._last
        while done < tokens:
            room = block - (self.tokens + done) % block
            take = min(room, tokens - done)
            last = mixed(pack(name, done, take), seed=last)
            if take == room:
                self.chain.append(last)
            done += take
        self._last = last
        self.tokens += tokens


@dataclass(slots=True)
class _Draft:
    about: float  # when it will come, if answers take as long as one may think: for the order only
    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]
    output_blocks: tuple[int, ...]
    after: int  # number of the draft
    tenant: str
    session: str


class Drafts:
    """Requests as they are thought of, one conversation after the other."""

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._drafts)

    def turn(
        self, text: Text, piece: str, question: int, output: int, at: float, after: int = NO_REQUEST, tenant: str = ""
    ) -> int:
        """Ask: all of `text`, and a question of so many tokens. The answer joins the text. Returns the draft's number.

        `at` is a time, or a pause `after` another draft; `piece` names this turn, and its part up to "/" the session.
        """
        text.say(f"{piece} question", question)
        return self.ask(text, tuple(text.chain), piece, output, at, after, tenant)

    def ask(
        self,
        text: Text,
        blocks: tuple[int, ...],
        piece: str,
        output: int,
        at: float,
        after: int = NO_REQUEST,
        tenant: str = "",
    ) -> int:
        """The same for a question that is part of `text` already; `blocks` are all of the text's blocks."""
        prompt = text.tokens
        text.say(f"{piece} answer", output)
        answer = tuple(text.chain[len(blocks) :])
        about = at if after == NO_REQUEST else self._drafts[after].about + _SERVICE + at
        session = piece.partition("/")[0]
        self._drafts.append(_Draft(about, round(at, 6), prompt, output, blocks, answer, after, tenant, session))
        self._blocks += len(blocks) + len(answer)
        if len(self._drafts) > MAX_REQUESTS:
            raise WorkloadError(
                f"more than {MAX_REQUESTS:,} requests; ask for less time, a lower rate or fewer clients"
            )
        if self._blocks > MAX_BLOCKS:
            raise WorkloadError(
                f"more than {MAX_BLOCKS:,} block hashes; ask for fewer requests or larger blocks (block_tokens=128)"
            )
        return len(self._drafts) - 1

    def requests(self) -> list[Request]:
        """In the order in which they may be expected; none stands before the one that it waits for."""
        drafts = self._drafts
        order = sorted(
            range(len(drafts)), key=lambda number: drafts[number].about
        )  # stable: equal times keep their order
        place = {number: index for index, number in enumerate(order)}
        place[NO_REQUEST] = NO_REQUEST
        return [
            Request(
                at=draft.at,
                prompt=draft.prompt,
                output=draft.output,
                blocks=draft.blocks,
                after=place[draft.after],
                tenant=draft.tenant,
                session=draft.session,
                output_blocks=draft.output_blocks,
            )
            for draft in map(drafts.__getitem__, order)
        ]


def around(rng: Random, median: float, deviation: float, least: int, most: int) -> int:
    """A log-normal length within bounds; `deviation` is that of its logarithm."""
    return min(max(round(median * rng.lognormvariate(0.0, deviation)), least), most)


def pause(rng: Random, median: float, deviation: float = 1.0) -> float:
    """Log-normal seconds; at most an hour more than the median, so that no simulation waits for one sleeper."""
    return min(median * rng.lognormvariate(0.0, deviation), median + 3_600.0)


def turns_around(rng: Random, mean: float) -> int:
    """A number of turns, at least 1: geometric, as if each turn were the last one with the same chance."""
    if mean <= 1:
        return 1
    return 1 + int(math.log(1.0 - rng.random()) / math.log1p(-1.0 / mean))


def zipf(count: int, skew: float) -> list[float]:
    """Cumulated weights of `count` things, number n as popular as 1/n^skew."""
    return list(itertools.accumulate(1.0 / (place + 1) ** skew for place in range(count)))


def poisson(rng: Random, pieces: Iterable[tuple[float, float]]) -> Iterator[float]:
    """Arrivals at random: `pieces` are (seconds, arrivals per second), one behind the other."""
    start, wanted = 0.0, rng.expovariate(1.0)
    for seconds, rate in pieces:
        passed = 0.0
        while wanted <= (seconds - passed) * rate:
            passed += wanted / rate
            yield start + passed
            wanted = rng.expovariate(1.0)
        wanted -= (seconds - passed) * rate
        start += seconds


def pick(rng: Random, weights: Sequence[float]) -> int:
    """A place, by cumulated weights."""
    return rng.choices(range(len(weights)), cum_weights=weights)[0]
