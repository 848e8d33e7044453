"""Can a broken stream go on at another engine, with what request, and how do its events join what was sent?

Pure: bodies and events in, bodies and events out. For text in the OpenAI dialects of chat and completions only.
Rule 1: a continuation asks for the rest of the same answer, by token ids where the first engine gave them, else by
text: chat with the text as the beginning of the assistant's message, completions with it behind the prompt.
Rule 2: only a request whose every field is known may be continued, because a field that we do not know may count,
steer or watch what was generated before. What stands in no list below refuses.
Rule 3: tokens are taken as sent when their text was sent. An engine holds back half a character; tokens behind the
last text are generated again, so that none of it is lost.
Rule 4: the client gets one stream: one id, one role, one count of tokens.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import msgspec

from fairlead.wire.sse import DONE, event

MAX_KEPT: Final = 1 << 20  # bytes of text and ids kept for one stream
CHAT: Final = b"/v1/chat/completions"
COMPLETIONS: Final = b"/v1/completions"
TAKES_IDS: Final = frozenset(("vllm",))  # engines that tell token ids when asked, and take them as a prompt
CONTINUES: Final = frozenset(("vllm", "sglang"))  # engines that know continue_final_message

ASK_IDS: Final = b'"return_token_ids":true,'

# Fields that mean the same for the rest of an answer as for the whole, in both dialects.
_SAMPLING: Final = frozenset((
    "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "stop",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens",
    "spaces_between_special_tokens", "logit_bias", "cache_salt", "priority", "user",
))  # fmt: skip
_LIMITS: Final = frozenset(("max_tokens", "max_completion_tokens", "min_tokens", "return_token_ids"))  # rewritten
_CHAT_ONLY: Final = frozenset((
    "chat_template", "chat_template_kwargs", "reasoning_effort", "metadata", "store", "service_tier",
))  # fmt: skip
# Fields that refuse unless they say what is so without them.
_HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (False, True),
    "response_format": ({"type": "text"},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}

_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Plan:
    """What has to be known of a request whose stream may be continued."""

    __slots__ = ("asks_ids", "chat", "limit", "limit_names", "stops", "wants_ids", "wants_usage")

    def __init__(self, chat: bool) -> None:
        self.chat = chat
        self.limit: int | None = None  # output tokens in all
        self.limit_names: tuple[str, ...] = ()  # how the request calls it
        self.stops = False  # stop strings make the engine hold text back, so that ids and text do not end together
        self.wants_ids = False  # the client asked for token ids itself
        self.asks_ids = False  # are they to be asked for behind its back?
        self.wants_usage = False


def read_plan(path: bytes, body: bytes) -> Plan | str:
    """The plan for a request for a stream; or in a few words why its stream cannot be continued."""
    if path not in (CHAT, COMPLETIONS):
        return "not the chat or completions dialect"
    chat = path == CHAT
    long = "messages" if chat else "prompt"
    try:
        raw = _decode_raw(body)
        small = {name: _decode(value) for name, value in raw.items() if name != long}
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return "the body cannot be read"
    fields = {name: value for name, value in small.items() if value is not None}
    for name, value in fields.items():
        if name in _HARMLESS:
            # `0 == False` in Python; logprobs 0 asks for the chosen token's, so the type counts.
            if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in _HARMLESS[name]):
                return f"`{name}`"
        elif name not in _SAMPLING and name not in _LIMITS and not (chat and name in _CHAT_ONLY):
            return f"`{name}`"
    if fields.get("stream") is not True:
        return "no stream"
    plan = Plan(chat)
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    plan.limit_names = tuple(name for name in names if name in fields)
    for name in plan.limit_names:
        if type(fields[name]) is not int or fields[name] < 1:
            return f"`{name}`"
    limits = [fields[name] for name in plan.limit_names]
    plan.limit = limits[0] if limits else None
    if plan.limit is None and not chat:
        return "no `max_tokens`"  # engines differ in what is meant then: 16, or as much as fits
    if "min_tokens" in fields and type(fields["min_tokens"]) is not int:
        return "`min_tokens`"
    plan.stops = bool(fields.get("stop"))
    plan.wants_ids = fields.get("return_token_ids") is True
    plan.asks_ids = "return_token_ids" not in raw
    options = fields.get("stream_options")
    plan.wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return plan


def asking_ids(body: bytes) -> bytes:
    """The same request, asking for token ids as well; for one whose plan says so."""
    at = body.index(b"{") + 1
    return body[:at] + ASK_IDS + body[at:]


class Kept:
    """What a stream has said so far: enough to go on from, and no more than MAX_KEPT."""

    __slots__ = (
        "_all_ids", "_lags", "_settled", "chat", "done", "finished", "head", "ids_known", "prompt_ids", "said", "size",
        "text", "unfit", "usage",
    )  # fmt: skip

    def __init__(self, plan: Plan) -> None:
        self.chat = plan.chat
        self._lags = plan.stops
        self.head: dict[str, Any] = {}  # id, object, created, model as the client knows them
        self.text = bytearray()
        self.prompt_ids: array[int] | None = None
        self._all_ids = array("I")
        self._settled = 0  # how many of these the text so far is made of
        self.ids_known = True  # did every event with text bring its ids?
        self.said = 0  # events with text
        self.finished: str | None = None  # the reason
        self.done = False  # [DONE] was there
        self.usage: dict[str, Any] | None = None
        self.unfit = ""  # why it cannot be continued, found out on the way
        self.size = 0  # bytes kept

    @property
    def counted(self) -> bool:
        """Are the token ids of all that the engine told known?"""
        return self.ids_known and self.prompt_ids is not None

    @property
    def by_ids(self) -> bool:
        """Are those of the text that was sent?"""
        return self.counted and not self._lags

    @property
    def ids(self) -> array[int]:
        return self._all_ids[: self._settled]

    @property
    def tokens(self) -> int:
        """Tokens sent: counted where ids are known, else taken as one for each event with text."""
        if self.finished is not None and self.counted:
            return len(self._all_ids)  # the last ones may have had no text
        return self._settled if self.by_ids else self.said

    def give_up(self, reason: str) -> None:
        """It cannot be continued: nothing more needs to be kept."""
        self.unfit = self.unfit or reason
        self.text = bytearray()
        self._all_ids = array("I")
        self.prompt_ids = None
        self._settled = self.size = 0

    def observe(self, said: dict[str, Any]) -> None:
        """One event of the first engine."""
        if not self.head:
            self.head = {name: said[name] for name in ("id", "object", "created", "model") if name in said}
        usage = said.get("usage")
        if usage is not None:
            self.usage = usage
        if self.unfit:
            return
        choices = said.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            self.give_up("an unknown kind of event")
            return
        if not choices:
            return
        choice = choices[0]
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            self.give_up("several choices")
            return
        text = self._text_of(choice)
        self._keep_ids(said, choice, text)
        if text:
            self.text += text.encode()
            self.said += 1
            self._settled = len(self._all_ids)
        if choice.get("finish_reason") is not None:
            self.finished = str(choice["finish_reason"])
        prompt = self.prompt_ids
        self.size = len(self.text) + 4 * (len(self._all_ids) + (len(prompt) if prompt is not None else 0))
        if self.size > MAX_KEPT:
            self.give_up("too much text")

    def _text_of(self, choice: dict[str, Any]) -> str:
        if not self.chat:
            text = choice.get("text")
        else:
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                self.give_up("an unknown kind of event")
                return ""
            others = [name for name, value in delta.items() if value and name not in ("role", "content")]
            if others:  # reasoning, tool calls, refusals: their bounds in the text are the engine's own affair
                self.give_up("more than text")
            text = delta.get("content")
        return text if isinstance(text, str) else ""

    def _keep_ids(self, said: dict[str, Any], choice: dict[str, Any], text: str) -> None:
        try:
            if self.prompt_ids is None:
                prompt = said.get("prompt_token_ids") or choice.get("prompt_token_ids")
                if prompt:
                    self.prompt_ids = array("I", prompt)
            ids = choice.get("token_ids")
            if ids:
                self._all_ids.extend(array("I", ids))
            elif text:
                self.ids_known = False
        except (TypeError, ValueError, OverflowError):
            self.ids_known = False


def without_ids(said: dict[str, Any]) -> bool:
    """Take token ids out of an event; False when it has none."""
    found = said.pop("prompt_token_ids", None) is not None
    for choice in said.get("choices") or ():
        if isinstance(choice, dict):
            found |= "token_ids" in choice or "prompt_token_ids" in choice
            choice.pop("token_ids", None)
            choice.pop("prompt_token_ids", None)
    return found


def is_engines_end(said: dict[str, Any]) -> bool:
    """Is this the last word of an engine that breaks down (and not its complaint about the request)?"""
    error = said.get("error")
    if not isinstance(error, dict) or said.get("choices"):
        return False
    code = str(error.get("code"))
    return len(code) == 3 and code.isdecimal() and code >= "500"


def continuation(path: bytes, body: bytes, plan: Plan, kept: Kept, engine: str) -> tuple[bytes, bytes] | None:
    """(path, body) that asks `engine` for the rest; None when it cannot be asked."""
    fields: dict[str, Any] = {name: value for name, value in _decode(body).items() if value is not None}
    sent = kept.tokens
    if sent:
        for name in plan.limit_names:
            fields[name] = max(fields[name] - sent, 1)
        if "min_tokens" in fields:
            fields["min_tokens"] = max(fields["min_tokens"] - sent, 0)
    if not kept.text:
        return path, _encode(fields)  # nothing but the role went out: the same again
    if engine in TAKES_IDS and kept.by_ids and not _has_media(fields):
        assert kept.prompt_ids is not None
        rest = {name: value for name, value in fields.items() if name in _SAMPLING or name == "min_tokens"}
        rest["prompt"] = [*kept.prompt_ids, *kept.ids]
        # Null: as much as fits. Without the field it would be this dialect's default.
        rest["max_tokens"] = plan.limit - sent if plan.limit is not None else None
        if plan.wants_ids:
            rest["return_token_ids"] = True
        return COMPLETIONS, _encode(rest)
    text = kept.text.decode()
    if plan.chat:
        messages = fields["messages"]
        if engine not in CONTINUES or not messages or messages[-1].get("role") == "assistant":
            return None
        fields["messages"] = [*messages, {"role": "assistant", "content": text}]
        fields["continue_final_message"] = True
        fields["add_generation_prompt"] = False
        return path, _encode(fields)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        return None
    fields["prompt"] = prompt + text
    return path, _encode(fields)


def _has_media(fields: dict[str, Any]) -> bool:
    """Does a message hold more than text? Its token ids alone would not bring that back."""
    for message in fields.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list) and any(not isinstance(p, dict) or p.get("type") != "text" for p in content):
            return True
    return False


class Rewriter:
    """Makes the events of the second engine events of the first one's stream."""

    __slots__ = ("_base", "_head", "_keeps_ids", "_prompt", "_translates", "finished", "said", "usage")

    def __init__(self, plan: Plan, kept: Kept, path: bytes) -> None:
        """`path`: which dialect the second engine answers in."""
        self._head = kept.head
        self._base = kept.tokens
        self._prompt = len(kept.prompt_ids) if kept.prompt_ids is not None else None
        self._translates = plan.chat and path == COMPLETIONS
        self._keeps_ids = plan.wants_ids
        self.finished: str | None = None
        self.said = 0  # events with text
        self.usage: dict[str, Any] | None = None  # of both parts

    def rewrite(self, said: dict[str, Any]) -> bytes:
        """The event as the client gets it; nothing where it would say something twice."""
        said.pop("prompt_token_ids", None)
        for choice in said.get("choices") or ():
            choice.pop("prompt_token_ids", None)
            if not self._keeps_ids:
                choice.pop("token_ids", None)
            if choice.get("finish_reason") is not None:
                self.finished = str(choice["finish_reason"])
            if self._translates:
                text = choice.pop("text", "")
                choice["delta"] = {"content": text} if text else {}
            delta = choice.get("delta")
            self.said += bool(choice.get("text") if delta is None else delta.get("content"))
            # The role was told before, where anything was.
            if delta and self._head and delta.pop("role", None) and not any(delta.values()) and not self.finished:
                return b""
        said.update(self._head)
        usage = said.get("usage")
        if usage is not None:
            self.usage = self._whole(usage)
            said["usage"] = self.usage
        return event(_encode(said))

    def _whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Counted for both parts. What was sent before is part of the second engine's prompt."""
        prompt, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        prompt = self._prompt if self._prompt is not None else max(prompt - self._base, 0)
        output += self._base
        return usage | {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def closing(plan: Plan, kept: Kept) -> bytes | None:
    """The end of a stream that broke when all of its text was out; None if more is to come, or cannot be known."""
    if kept.done:
        return b""
    finished = kept.finished
    full = plan.limit is not None and kept.tokens >= plan.limit
    if kept.unfit or not (finished or full):
        return None
    out = b""
    if finished is None:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        choice["delta" if plan.chat else "text"] = {} if plan.chat else ""
        out = event(_encode(kept.head | {"choices": [choice]}))
    if plan.wants_usage and kept.usage is None:
        if not kept.counted:
            return None
        assert kept.prompt_ids is not None
        prompt, output = len(kept.prompt_ids), kept.tokens
        counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        kept.usage = counts
        out += event(_encode(kept.head | {"choices": [], "usage": counts}))
    return out + event(DONE)
