"""What does a running Fairlead say? Its admin API, asked over one connection that is kept.

Rule 1: an answer is JSON or a sentence why there is none; no exception of a library comes out of here.
Rule 2: the token is sent, never shown.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

PATIENCE_SECONDS: Final = 5.0
MAX_BYTES: Final = 32 * 1024 * 1024  # of one answer; a thousand backends take one


class NoAnswer(Exception):
    """Nobody answers there, or not in a way that can be read; the message is the end of a sentence."""


class Refused(Exception):
    """It answered, and said no; the message is its own."""

    def __init__(self, status: int, message: str, problems: Sequence[dict[str, Any]] = ()) -> None:
        """`problems` are those of a configuration, each with a path, a message, a line and a hint."""
        super().__init__(message)
        self.status, self.problems = status, problems


class WrongUrl(Exception):
    """This cannot be an admin API; the message is a sentence."""


class Asker:
    """One admin API."""

    def __init__(self, url: str, token: str = "", patience: float = PATIENCE_SECONDS) -> None:
        """WrongUrl."""
        self.url = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port or 80
        except ValueError as problem:
            raise WrongUrl(f"{url!r:.200}: {problem}") from None
        if parts.scheme != "http" or not host or parts.username is not None:
            raise WrongUrl(f"expected the URL of an admin API such as http://127.0.0.1:9900, got {url!r:.200}")
        if not token.isascii() or not token.isprintable():
            raise WrongUrl("expected a token of visible ASCII characters")
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection = http.client.HTTPConnection(host, port, timeout=patience)

    def get(self, path: str) -> Any:
        """NoAnswer, Refused."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """NoAnswer, Refused."""
        return self._ask("POST", path, json.dumps(body).encode())

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """NoAnswer, Refused."""
        return self._ask("PATCH", path, json.dumps(body).encode())

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        kept = self._connection.sock is not None
        try:
            try:
                status, text = self._exchange(method, path, body)
            except (http.client.RemoteDisconnected, ConnectionError):
                if not kept or method != "GET":
                    raise
                self.close()  # it was closed for its age
                status, text = self._exchange(method, path, body)
            answer = json.loads(text)
        except (OSError, http.client.HTTPException) as problem:
            self.close()
            raise NoAnswer(_why(problem)) from None
        except (ValueError, RecursionError):
            self.close()
            raise NoAnswer("what answers there is not a Fairlead's admin API") from None
        if status >= 400:
            error = answer.get("error") if isinstance(answer, dict) else None
            told = error if isinstance(error, dict) else {}
            if path != "/readyz":  # whose 503 is an answer
                message = str(told.get("message") or f"it answered {status}")
                raise Refused(status, message, told.get("problems", ()))
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else self._headers
        self._connection.request(method, self._path + path, body, headers)
        response = self._connection.getresponse()
        text = response.read(MAX_BYTES)
        if not response.isclosed():  # more than that
            self.close()
        return response.status, text


def _why(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    return "the connection broke" if isinstance(problem, http.client.HTTPException) else str(problem) or "no answer"
