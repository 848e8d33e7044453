"""Does SIGTERM to fairlead end it without ending anybody's answer?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .balancer import Fairlead
from .client import BROKEN, DONE, Answer, call, chat, streaming
from .conftest import OwnFairlead
from .waiting import wait_for

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"


def takes_new_requests(proxy: Fairlead) -> bool:
    try:
        return call("POST", proxy.url + CHAT, chat(max_tokens=1), timeout=5.0).status == 200
    except BROKEN:
        return False


def test_a_stream_in_progress_is_finished(own: OwnFairlead) -> None:
    proxy = own()
    with streaming(proxy.url + CHAT, chat(max_tokens=250, stream=True)) as answer:
        events = answer.events()
        first = [next(events) for _ in range(3)]
        proxy.terminate()
        wait_for("fairlead to take no new requests", lambda: not takes_new_requests(proxy), seconds=3.0)
        assert proxy.is_running()
        rest = list(events)
    assert rest[-1] == DONE
    assert len(first) + len(rest) >= 200  # a token is seldom without text of its own
    assert proxy.exit_code(seconds=10.0) == 0


def test_a_plain_request_in_progress_is_finished(own: OwnFairlead) -> None:
    proxy = own()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(call, "POST", proxy.url + CHAT, chat(max_tokens=120))
        wait_for("the request to be on its way", lambda: proxy.inflight() == 1, seconds=10.0)
        proxy.terminate()
        answer: Answer = asked.result()
    assert answer.status == 200
    assert answer.json()["usage"]["completion_tokens"] == 120
    assert proxy.exit_code(seconds=10.0) == 0


def test_with_nothing_to_do_it_ends_at_once(own: OwnFairlead) -> None:
    proxy = own()
    assert call("POST", proxy.url + CHAT, chat(max_tokens=1)).status == 200
    proxy.terminate()
    assert proxy.exit_code(seconds=5.0) == 0


def test_its_log_holds_no_accidents(own: OwnFairlead) -> None:
    proxy = own()
    assert call("POST", proxy.url + CHAT, chat(max_tokens=1)).status == 200
    proxy.terminate()
    proxy.exit_code(seconds=5.0)
    log = proxy.log.read_text(errors="replace")
    for accident in ("Traceback", "never retrieved", "was destroyed", "never awaited", "ResourceWarning"):
        assert accident not in log
