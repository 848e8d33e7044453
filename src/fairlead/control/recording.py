"""A recording of the traffic, to replay it later: when came what, how long was it, which beginnings were shared?

One JSON line per request that an engine worked on, under a header line; docs/recording.md says what they hold.
Rule 1: no text, ever. Prompts are there as lengths and as hashes of their blocks, sessions as a hash, models by the
        names that engines list. All hashes are keyed with a salt that is kept apart from the recording, so that
        nobody who has only the recording can test guesses of a prompt against it.
Rule 2: the loop only appends plain values to a queue. A thread hashes, encodes and writes; it works in short pieces
        with pauses, since while it runs Python the loop does not. What finds the queue full is dropped and counted.
Rule 3: bounded disk: `keep` files of at most `max_bytes`. An error of the disk ends the recording, never the proxy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from fairlead import __version__
from fairlead.control.background import PERIOD_SECONDS
from fairlead.control.file_queue import FileQueue
from fairlead.control.recording_files import NEW_FILE, Files, why
from fairlead.core.model import Kind
from fairlead.proxy.record import Record

if TYPE_CHECKING:
    from fairlead.core.balancer import Balancer

FORMAT: Final = 1  # in the header; readers refuse what they do not know
SALT_BYTES: Final = 32
MAX_BLOCKS: Final = 512  # per request; what comes after them is not in the recording
MAX_WAITING: Final = 8_192  # requests that may wait for the thread,
MAX_WAITING_BLOCKS: Final = 524_288  # and blocks in them: about 20 MB
PIECE: Final = 256  # hashes in one go, about 0.2 ms, and then the loop's turn
LINE_COST: Final = 16  # encoding one line takes as long as so many hashes


class RecordingError(Exception):
    """It cannot be begun; the message is a sentence for people."""


class _Taken(NamedTuple):
    """What the loop hands over of one request."""

    arrived: float
    model: str | None
    prompt_tokens: int
    prompt_bytes: int
    output_tokens: int
    max_tokens: int | None
    stream: bool
    blocks: Sequence[int]
    block_ends: Sequence[int]
    backend: str
    ttft: float | None
    duration: float
    cached_tokens: int | None
    status: int
    outcome: str
    tries: int
    session: str | None


class Recording(FileQueue):
    """Takes records of finished requests on the loop; a thread writes them."""

    def __init__(
        self,
        path: str,
        *,
        balancer: Balancer,
        policy: str,
        clock: Callable[[], float],
        max_bytes: int = 64 * 1024 * 1024,
        keep: int = 4,
    ) -> None:
        """`clock` is that of the records' times. RecordingError when the file or its salt cannot be used."""
        self._balancer = balancer
        self._zero = clock()
        started = time.time()
        salt, self._lock = _salt(path + ".salt")
        self._head = {
            "fairlead_recording": FORMAT,
            "started": round(started, 6),
            "version": __version__,
            "salt": blake2b(salt, digest_size=4, person=b"recording").hexdigest(),
        }
        try:
            files = Files(path, self._header(policy), max_bytes, keep)
        except OSError as problem:
            os.close(self._lock)
            raise RecordingError(f"{path}: cannot be written: {why(problem)}") from None
        self._blocks = blake2b(key=salt, digest_size=8)  # copied for each hash: cheaper than a new one
        self._sessions = blake2b(key=salt, digest_size=8, person=b"session")
        self._taken: deque[_Taken | str] = deque()  # a string: the policy from there on
        self._blocks_in = self._blocks_out = 0  # of the queue; the loop writes one, the thread the other
        super().__init__("recording", files, period=PERIOD_SECONDS, again="record")
        self._thread.start()

    @property
    def bytes_written(self) -> int:
        """Since the start, files that were rotated away included."""
        return self._files.bytes

    def take(self, record: Record) -> None:
        """A request is over. Called on the loop: appends plain values, nothing else."""
        lease = record.lease
        if lease is None or lease.facts.kind == Kind.CHEAP:
            return
        facts = lease.facts
        blocks = facts.blocks
        if len(blocks) > MAX_BLOCKS:
            blocks = blocks[:MAX_BLOCKS]
        waiting = self._blocks_in - self._blocks_out
        if len(self._taken) >= MAX_WAITING or waiting >= MAX_WAITING_BLOCKS or self._is_over:
            self._refused += 1
            return
        model = record.model
        if model is not None and model not in self._balancer.models:
            model = "other"  # what clients make up may be text
        self._blocks_in += len(blocks)
        self._taken.append(
            _Taken(
                record.arrived,
                model,
                record.prompt_tokens or lease.prompt_tokens,
                facts.prompt_bytes,
                record.output_tokens or 0,
                facts.max_tokens,
                record.stream,
                blocks,
                facts.block_ends,
                lease.backend.id,
                # The first byte of an answer in one piece says nothing about its first token.
                record.ttft if record.stream or lease.first_token_at is not None else None,
                record.duration,
                record.cached_tokens,
                record.status,
                record.outcome,
                record.tries,
                facts.session,
            )
        )

    def switched(self, policy: str) -> None:
        """Another policy decides from now on: a header says so, before the next request."""
        if not self._is_over:
            self._taken.append(policy)

    def close(self) -> bool:
        """Write what was taken, and let another recording have the file."""
        first = not self._thread.closed
        ended = super().close()
        if first and ended:
            self._lost += self._forget()
            os.close(self._lock)
        return ended

    # --- the thread's part -----------------------------------------------------------------------------------

    def _write_taken(self) -> None:
        queue, done = self._taken, 0
        while queue:
            taken = queue[0]
            if isinstance(taken, str):
                self._files.begin(self._header(taken))
                queue.popleft()
                continue
            self._files.add(self._line(taken))
            queue.popleft()  # only now: what fails before is counted with what waits
            self._blocks_out += len(taken.blocks)
            done += len(taken.blocks) + LINE_COST
            if done >= PIECE:
                done = 0
                self._files.flush()
                self._thread.pause()
        self._files.flush()

    def _forget(self) -> int:
        waiting = sum(not isinstance(taken, str) for taken in self._taken)
        self._taken.clear()
        return waiting

    def _header(self, policy: str) -> bytes:
        return msgspec.json.encode({**self._head, "policy": policy}) + b"\n"

    def _line(self, taken: _Taken) -> bytes:
        blocks, size = taken.blocks, taken.prompt_bytes
        ends = list(taken.block_ends[: len(blocks)])
        if not size and ends:  # token ids: nobody measured their bytes, so the blocks stand for all of them
            size = ends[-1]
        count = (
            bisect_left(ends, size) + 1
        )  # ends rise; a picture counts less than its bytes, of which blocks were made
        ends[count - 1 :] = [min(end, size) for end in ends[count - 1 : count]]
        line = {
            "at": round(max(taken.arrived - self._zero, 0.0), 6),
            "model": taken.model,
            "prompt_tokens": taken.prompt_tokens,
            "prompt_bytes": size,
            "output_tokens": taken.output_tokens,
            "max_tokens": taken.max_tokens,
            "stream": taken.stream,
            "blocks": [_keyed(self._blocks, block.to_bytes(8, "big")) for block in blocks[:count]],
            "ends": ends,
            "backend": taken.backend,
            "ttft": None if taken.ttft is None else round(taken.ttft, 6),
            "duration": round(taken.duration, 6),
            "cached_tokens": taken.cached_tokens,
            "status": taken.status,
            "outcome": taken.outcome,
            "tries": taken.tries,
            "tenant": "",
            "session": _keyed(self._sessions, taken.session.encode("utf-8", "replace")) if taken.session else "",
        }
        return msgspec.json.encode(line) + b"\n"


def _keyed(start: blake2b, data: bytes) -> str:
    """16 hex digits that only the holder of the salt can make."""
    state = start.copy()
    state.update(data)
    return state.hexdigest()


def _salt(path: str) -> tuple[bytes, int]:
    """The salt, made on first use, and the descriptor that keeps a second Fairlead from the same recording."""
    try:
        with contextlib.suppress(FileExistsError):
            _make_salt(path)
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            salt = os.read(file, SALT_BYTES + 1)
            if len(salt) != SALT_BYTES:
                raise OSError(0, f"it should have {SALT_BYTES} bytes: delete it, and a new one is made")
            _lock(file)
        except OSError:
            os.close(file)
            raise
    except BlockingIOError:
        raise RecordingError(f"{path}: another fairlead records there: choose another file") from None
    except OSError as problem:
        raise RecordingError(f"{path}: the recording's salt cannot be used: {why(problem)}") from None
    return salt, file


def _make_salt(path: str) -> None:
    """FileExistsError when there is one."""
    file = os.open(path, NEW_FILE | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(file, os.urandom(SALT_BYTES))  # a part of it, on a full disk, is found out when it is read
    finally:
        os.close(file)


def _lock(file: int) -> None:
    """BlockingIOError when somebody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks
