"""Engines with a tiny deterministic model, to be killed at any token.

The model answers every prompt with TOKENS, one event for each. Asked for a continuation it reads out of the request
where it stands (by token ids, by the assistant's text so far, or by the text behind the prompt) and goes on from there,
so a token said twice or left out shows in the client's text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from peers import Answer, Peer, Script, Seen
from running import CHAT, DONE, LAST, Fleet, ask, chunk, sse_head

COMPLETIONS = "/v1/completions"
PROMPT = "tell"
PROMPT_IDS = [11, 12, 13]
TOKENS = [(100 + number, f" w{number}é") for number in range(8)]
TEXT = "".join(text for _, text in TOKENS)
ASSISTANT = 4  # tokens that a template puts around a message; text continuations have none of them

End = Callable[[Peer], Awaitable[None]]


async def cut(peer: Peer) -> None:
    """The connection breaks."""
    await asyncio.sleep(0)
    peer.reset()


async def close(peer: Peer) -> None:
    """The connection ends without the body's end."""
    await asyncio.sleep(0)
    peer.close()


async def half_an_event(peer: Peer) -> None:
    await peer.send(chunk(b'data: {"id":"x","choices":[{"ind'))
    await close(peer)


async def half_a_chunk(peer: Peer) -> None:
    await peer.send(b'60\r\ndata: {"id":"x","choices":[{"ind')
    await close(peer)


async def error_event(peer: Peer) -> None:
    """As vLLM does when its core dies: an error, then a proper end."""
    said = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}
    await peer.send(chunk(b"data: %b\n\n" % json.dumps(said).encode()) + chunk(DONE) + LAST)


async def proper_end(peer: Peer) -> None:
    """The framing says that all is well."""
    await peer.send(LAST)


async def silence(peer: Peer) -> None:
    await peer.end(60.0)


def position(seen: Seen) -> int:
    """Which token is next, by what the request holds; fails where it cannot be one of ours."""
    asked = json.loads(seen.body)
    if seen.target == CHAT:
        last = asked["messages"][-1]
        if last["role"] != "assistant":
            return 0
        assert asked["continue_final_message"] is True
        assert asked["add_generation_prompt"] is False
        return _behind(last["content"])
    prompt = asked["prompt"]
    if isinstance(prompt, str):
        return _behind(prompt.removeprefix(PROMPT))
    assert prompt[: len(PROMPT_IDS)] == PROMPT_IDS
    sent = prompt[len(PROMPT_IDS) :]
    assert sent == [number for number, _ in TOKENS][: len(sent)]
    return len(sent)


def _behind(text: str) -> int:
    for number in range(len(TOKENS) + 1):
        if "".join(said for _, said in TOKENS[:number]) == text:
            return number
    raise AssertionError(f"no answer begins with {text!r}")


def speaking(until: int | None = None, end: End = cut, *, id: str = "first", ids: bool = True) -> Script:
    """Say tokens up to number `until` and end like that; None: to the end. `ids`: does it know return_token_ids?"""

    async def play(peer: Peer, seen: Seen) -> None:
        asked = json.loads(seen.body)
        chat = seen.target == CHAT
        gives_ids = ids and asked.get("return_token_ids") is True
        counts = (asked.get("stream_options") or {}).get("include_usage") is True
        start = position(seen)
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 99
        head = {"id": id, "created": 7 if id == "first" else 8, "model": "m" if id == "first" else "other"}
        head["object"] = "chat.completion.chunk" if chat else "text_completion"
        await peer.send(sse_head(seen))

        async def say(**rest: Any) -> None:
            await peer.send(chunk(b"data: %b\n\n" % json.dumps(head | rest).encode()))
            await asyncio.sleep(0)

        prompt = {"prompt_token_ids": PROMPT_IDS} if gives_ids else {}
        if chat:
            await say(
                choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], **prompt
            )
        last = min(len(TOKENS), start + limit)
        for number in range(start, last):
            if number == until:
                await end(peer)
                return
            token, text = TOKENS[number]
            choice: dict[str, Any] = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
            choice["finish_reason"] = None if number + 1 < last else "length" if last < len(TOKENS) else "stop"
            if gives_ids:
                choice["token_ids"] = [token]
            if number == start and not chat:
                choice |= prompt
            await say(choices=[choice])
        if until == len(TOKENS):
            await end(peer)
            return
        if counts:
            before = len(PROMPT_IDS) + start
            total = {"prompt_tokens": before, "completion_tokens": last - start, "total_tokens": before + last - start}
            await say(choices=[], usage=total)
        await peer.send(chunk(DONE) + LAST)

    return play


def wanting(route: str = CHAT, nonce: str = "n0", **fields: Any) -> bytes:
    """A request for a stream."""
    prompt: dict[str, Any] = (
        {"messages": [{"role": "user", "content": PROMPT}]} if route == CHAT else {"prompt": PROMPT}
    )
    asked = {"model": "m", "stream": True, "max_tokens": 20, **prompt, **fields}
    return ask(nonce, route, json.dumps({name: value for name, value in asked.items() if value is not ...}).encode())


@dataclass
class Told:
    """A stream as its client understood it."""

    text: str = ""
    heads: set[tuple[Any, ...]] = field(default_factory=set)
    roles: int = 0
    finished: list[str] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    dones: int = 0
    names: set[str] = field(default_factory=set)  # of fields in choices and events


def told(payload: bytes) -> Told:
    """Read the events of a stream, its framing taken off."""
    out = Told()
    for block in payload.split(b"\n\n"):
        if not block.startswith(b"data: "):
            continue
        data = block[6:]
        if data == b"[DONE]":
            out.dones += 1
            continue
        said = json.loads(data)
        if "error" in said:
            out.errors.append(said["error"])
            continue
        out.heads.add((said.get("id"), said.get("object"), said.get("created"), said.get("model")))
        out.names |= set(said)
        if said.get("usage"):
            out.usages.append(said["usage"])
        for choice in said["choices"]:
            out.names |= set(choice)
            delta = choice.get("delta", {})
            out.text += choice.get("text") or delta.get("content") or ""
            out.roles += "role" in delta
            if choice.get("finish_reason"):
                out.finished.append(choice["finish_reason"])
    return out


def payload_of(answer: Answer) -> bytes:
    """The payload of an answer, whole or not."""
    if answer.whole or answer.field("transfer-encoding") is None:
        return answer.body
    found, rest = b"", answer.body
    while (end := rest.find(b"\r\n")) >= 0:
        size = int(rest[:end], 16)
        found += rest[end + 2 : end + 2 + size]
        rest = rest[end + 4 + size :]
    return found


def options(engine: str = "vllm", **more: Any) -> dict[str, Any]:
    return {"resume": True, "backend": {"engine": engine}, **more}


OBJECTS = {CHAT: "chat.completion.chunk", COMPLETIONS: "text_completion"}


def assert_one_stream(story: Told, route: str) -> None:
    """Nothing of it shows that there were two engines."""
    assert story.text == TEXT
    assert story.heads == {("first", OBJECTS[route], 7, "m")}
    assert story.roles == (route == CHAT)
    assert (story.finished, story.dones, story.errors) == (["stop"], 1, [])
    assert not story.names & {"token_ids", "prompt_token_ids"}


def assert_broken(answer: Answer, text: str) -> None:
    story = told(payload_of(answer))
    assert (answer.whole, story.text, story.dones, story.finished) == (False, text, 0, [])
    assert [error["code"] for error in story.errors] == ["stream_broken"]


def begun(tokens: int) -> str:
    return "".join(text for _, text in TOKENS[:tokens])


async def outcome(f: Fleet, tries: int = 2) -> dict[str, Any]:
    (line,) = await f.logged(1)
    assert (line["tries"], line["outcome"], line["status"]) == (tries, "ok", 200)
    return line
