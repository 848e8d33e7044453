"""Does an engine that hung work again? One token of an answer, which Fairlead asks for itself.

The health page of an engine that hangs may be well all the time, and the first request that is sent there to find out
may hang as well. The prompt is a word of ours, nothing of it is logged. An answer that says no (4xx: another kind of
model, a key is wanted) tells nothing of the engine: then requests must find out, as without it.
"""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp
import msgspec

MODEL_NAME: Final = 512  # most characters of a model's name
ANSWER_BYTES: Final = 65_536


def body(model: str) -> bytes:
    """The smallest completion there is."""
    return msgspec.json.encode({"model": model, "prompt": "Hi", "max_tokens": 1, "temperature": 0, "stream": False})


def model_of(models: frozenset[str] | None) -> str | None:
    """The model to ask for; None where no name is known."""
    names = sorted(name for name in models or () if name != "*" and len(name) <= MODEL_NAME)
    return names[0] if names else None


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    timeout: float,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> str | None:
    """ "" when a token came, what is wrong when none did; None: the engine does not want to be asked that."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    try:
        request = session.post(
            url, data=body(model), headers=headers, allow_redirects=False,
            ssl=tls if tls is not None else True, server_hostname=server_name,
            timeout=aiohttp.ClientTimeout(total=timeout),
        )  # fmt: skip
        async with request as response:
            await response.content.read(ANSWER_BYTES)
            status = response.status
    except TimeoutError:
        return f"a token that was asked for did not come within {timeout:g} s"
    except (aiohttp.ClientError, OSError):
        return "a token that was asked for did not come"
    if status == 429 or status >= 500:
        return f"a token that was asked for was answered with {status}"
    return "" if 200 <= status < 300 else None
