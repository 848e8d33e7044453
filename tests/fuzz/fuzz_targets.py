"""The fuzz targets by name, each with its corpus and with the words of its format.

The corpus of a target is the folder corpus/NAME: inputs of at most 4 KiB, named after what they try. They run
as tests; the fuzzers begin with them, and what they find goes there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fuzz_http2 as http2
import fuzz_text as text
import fuzz_wire as wire

CORPUS = Path(__file__).parent / "corpus"
MAX_FILE = 4_096  # bytes


@dataclass(frozen=True)
class Target:
    """Something to fuzz. `run` says in a word what came of an input; whatever it raises is a fault."""

    name: str
    run: Callable[[bytes], str]
    words: tuple[bytes, ...]
    modules: tuple[str, ...]  # whose coverage leads the way

    @property
    def folder(self) -> Path:
        return CORPUS / self.name

    def corpus(self) -> list[tuple[str, bytes]]:
        """(name, input) of every file, in order."""
        return [(file.name, file.read_bytes()) for file in sorted(self.folder.iterdir())]


def _words(said: str) -> tuple[bytes, ...]:
    return tuple(word.encode("latin-1").decode("unicode_escape").encode("latin-1") for word in said.split(" "))


_HTTP = (
    r"Host:\x20a\r\n Content-Length:\x20 Content-Length:\x205\r\n content-length:\x205\r\n Transfer-Encoding:\x20 "
    r"chunked chunked\r\n Connection:\x20close\r\n Connection:\x20keep-alive\r\n Connection:\x20 X-A:\x201\r\n "
    r"Expect:\x20100-continue\r\n identity gzip GET POST HEAD PUT / * http://a/b ?q=1 HTTP/1.1 HTTP/1.0 HTTP/2.0 "
    r"\r\n\r\n \r\n \n \r \x20 \t X-Request-Id:\x20r-1\r\n Via:\x201.1\x20x\r\n TE:\x20trailers\r\n 5\r\nhello\r\n "
    r"0\r\n\r\n 1 5 0 , ; : GET\x20/\x20HTTP/1.1\r\nHost:\x20a\r\n\r\n"
)
_ANSWER = (
    r"HTTP/1.1\x20200\x20OK\r\n HTTP/1.0\x20200\x20OK\r\n HTTP/1.1\x20204\x20No\x20Content\r\n "
    r"HTTP/1.1\x20100\x20Continue\r\n\r\n HTTP/1.1\x20103\x20Early\r\n\r\n HTTP/1.1\x20304\x20N\r\n "
    r"Content-Length:\x205\r\n content-length:\x205\r\n Transfer-Encoding:\x20chunked\r\n Connection:\x20close\r\n "
    r"Content-Type:\x20text/event-stream\r\n hello 5\r\nhello\r\n 0\r\n\r\n \r\n\r\n \r\n \n 101 204 304 500 , ; :"
)
_USAGE = (
    r'"usage": {"prompt_tokens": "completion_tokens": "total_tokens": "prompt_tokens_details": {"cached_tokens":5} '
    r'"input_tokens": "output_tokens": "input_tokens_details": "cache_read_input_tokens": null 5 -1 1.5 1e3 true } } '
    r'{ , "x":"}" "x":"{" data:\x20 \n\n data:\x20[DONE]\n\n "choices":[] 1000000000001'
)
_BODY = (
    r'"model":"m" "model":null "messages":[] "stream":true "stream":false "max_tokens":5 "max_completion_tokens":5 '
    r'"n":2 "stream_options":{"include_usage":true} "prompt":"a" "prompt":[1,2] "inputs":"a" "input":["a"] "tools":[] '
    r'"system":"s" "options":{"num_predict":5} "parameters":{"max_new_tokens":5} "sampling_params":{"n":2} , { } [ ] '
    r'"data":" ;base64,AAAA \\u0041 \\ud800 NaN 1e999 null \xef\xbb\xbf /v1/chat/completions\n /v1/completions\n '
    r"/v1/embeddings\n /v1/messages\n /generate\n /generate_stream\n /v2/models/m/generate\n /tokenize\n /api/chat\n"
)
_YAML = (
    r"backends:\n \x20\x20-\x20 url:\x20 http://a:1 listen:\x20 policy:\x20 name:\x20 random session header:\x20 "
    r"timeouts:\n \x20\x20connect:\x20 5s 20% 1MiB true off null ~ &a *a <<:\x20*a !!str !x | > - {} [] { } [ ] \x20 "
    r"retries: limits: body: head: access_log: path: tls: cert: routes: trusted_proxies: headers: .nan .inf 1e5 --- "
    r"... # ' \x22 \n \n\n : \t 0 -1 99999999999 health: metrics: backup: weight: models: shadow: drain: admin:"
)
_METRICS = (
    r'vllm:num_requests_running vllm:num_requests_waiting a a_total {model_name="m"} {engine="0",model="m"} { } = " '
    r'\\n \\" \\\\ , \x20 \n 1 0 1.0 1e5 -1 NaN +Inf Inf #\x20HELP\x20a\x20b\n #\x20TYPE\x20a\x20gauge\n 1700000000 '
    r"#\x20{x=\x22y\x22}\x201 _ 0x1 1_0"
)
_TRACE = (
    r'{"timestamp": "input_length": "output_length": "hash_ids": [0,1,2] [] , } \n 0 1 512 3000 27482 -1 1e400 1.5 '
    r"null NaN TIMESTAMP,ContextTokens,GeneratedTokens\n 2023-11-16\x2018:15:46.6805900,374,44\n 9999-12-31 +00:00 "
    r'{"fairlead_recording":1,"started":1.5}\n "fairlead_recording": "started": "at": "prompt_tokens": "output_tokens":'
    r' "prompt_bytes": "blocks": "ends": ["0123456789abcdef"] [256] "outcome":"ok" "status":200 "duration":1 "time": '
    r'"backend":"b" "model":"m" "ttft":0.5 "max_tokens":5 "tenant":"t" "session":"s" \x22'
)
_CHUNKS = (
    r"0\r\n\r\n 5\r\nhello\r\n 1\r\na\r\n A\r\n a ; ;a=b ;a=\x22b\x22 \r\n \n \r X:\x201\r\n 0x 00 + - _ "
    r"FFFFFFFFFFFFFFFF"
)
_PROXY = (
    r"PROXY\x20 TCP4\x20 TCP6\x20 UNKNOWN 192.0.2.1 ::1 ffff::1 \x20 0 80 65535 65536 \r\n "
    r"\r\n\r\n\x00\r\nQUIT\n \x21 \x20 \x11 \x21\x21 \x31 \x00\x0c \x00\x24 \x00\x00 \x10\x00 \x03\x00\x04 %eth0"
)
_FRAMES = (
    r"PRI\x20*\x20HTTP/2.0\r\n\r\nSM\r\n\r\n \0\0\0\x04\0\0\0\0\0 \0\0\x04\x03\0\0\0\0\x01\0\0\0\x08 "
    r"\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86 \0\0\x01\x09\0\0\0\0\x01\x82 \0\0\x01\x01\0\0\0\0\x01\x82 "
    r"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0 \0\0\x01\0\x01\0\0\0\x01a \0\x40\0 \xff\xff\xff \0\0\0\0 \x07 \x01"
)
_FIELDS = (
    r"\x1e \x1f \x1e:method\x1fGET \x1e:scheme\x1fhttps \x1e:path\x1f/ \x1e:authority\x1fa \x1ehost\x1fa \x1ex-a\x1f1 "
    r"\x1econtent-length\x1f5 \x1etransfer-encoding\x1fchunked \x1ecookie\x1fa=b \x1ete\x1ftrailers "
    r"\x1eexpect\x1f100-continue \r\n \n \0 \x20 : # \x5c HTTP/1.1 X POST /v1/x"
)

TARGETS = {
    target.name: target
    for target in (
        Target("request", wire.request, _words(_HTTP), ("fairlead.wire", "fairlead.proxy.client")),
        Target("response", wire.response, _words(_ANSWER), ("fairlead.wire", "fairlead.proxy.upstream")),
        Target("chunked", wire.chunked, _words(_CHUNKS), ("fairlead.wire.chunked",)),
        Target("sse", wire.sse, _words(_USAGE), ("fairlead.wire", "fairlead.proxy.upstream")),
        Target("frames", http2.frames, _words(_FRAMES), ("fairlead.wire.frames",)),
        Target("fields", http2.fields, _words(_FIELDS), ("fairlead.wire",)),
        Target("proxy", wire.proxy, _words(_PROXY), ("fairlead.wire.proxy_protocol",)),
        Target("facts", text.facts, _words(_BODY), ("fairlead.wire.openai",)),
        Target("usage", text.usage, _words(_USAGE), ("fairlead.wire.openai",)),
        Target("config", text.config, _words(_YAML), ("fairlead.config",)),
        Target("metrics", text.metrics, _words(_METRICS), ("fairlead.engines.promtext",)),
        Target("trace", text.trace, _words(_TRACE), ("fairlead.sim.readers",)),
    )
}
