"""Answers of our own. Errors as clients see them: the OpenAI shape, or Anthropic's on its routes.

They say whose fault it was and what to do, and hold no upstream address, key or prompt text.
"""

from __future__ import annotations

import msgspec

from fairlead.wire.http1 import METHODS

REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
    508: "Loop Detected",
}  # fmt: skip

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
}

_ANTHROPIC = {503: "overloaded_error", 429: "rate_limit_error", 404: "not_found_error"}


def error_type(status: int) -> str:
    """The word for `error.type`."""
    return TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_body(status: int, code: str, message: str, param: str | None = None, *, anthropic: bool = False) -> bytes:
    """The JSON body of an error answer."""
    if anthropic:
        kind = _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return msgspec.json.encode(
        {"error": {"message": message, "type": error_type(status), "code": code, "param": param}}
    )


def error_event(code: str, message: str, *, anthropic: bool = False) -> bytes:
    """The event that ends a broken stream: clients raise on it, so a cut answer is never taken for a whole one."""
    body = error_body(502, code, message, anthropic=anthropic)
    return (b"event: error\n" if anthropic else b"") + b"data: " + body + b"\n\n"


def render(
    status: int, body: bytes, request_id: bytes, extra: bytes = b"", *, close: bool, bodyless: bool = False
) -> bytes:
    """A whole answer of our own; `extra` are further header lines, each with its CRLF."""
    if status == 405:  # RFC 9110 section 15.5.6
        extra += b"allow: %b\r\n" % b", ".join(sorted(METHODS))
    return b"HTTP/1.1 %d %b\r\nserver: fairlead\r\ncontent-type: application/json\r\n%b" % (
        status,
        REASONS.get(status, "Error").encode(),
        b"content-length: %d\r\n%b%bx-request-id: %b\r\n\r\n%b"
        % (len(body), extra, b"connection: close\r\n" if close else b"", request_id, b"" if bodyless else body),
    )
