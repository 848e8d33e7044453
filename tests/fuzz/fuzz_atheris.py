"""`fuzz_atheris.py NAME FOLDER SECONDS SEED`: one target under atheris, in a process of its own.

libFuzzer never returns from a run, so fuzz_run.py starts one of these for each target.
Faults do not end the run: each kind is written to FOLDER once, beside the figures. What reached something new lies in
FOLDER/new, as libFuzzer names it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["fairlead.wire", "fairlead.proxy", "fairlead.config", "fairlead.engines",
                                         "fairlead.sim.readers"]):  # fmt: skip
    from fuzz_engine import SLOW, kind_of
    from fuzz_mutate import LONGEST
    from fuzz_targets import TARGETS

SAVE_EVERY = 0.5  # seconds


def main(name: str, folder: Path, seconds: int, seed: int) -> None:
    target = TARGETS[name]
    new, dictionary = folder / "new", folder / "words"
    new.mkdir(parents=True, exist_ok=True)
    words = {word for word in target.words if 0 < len(word) <= 60}
    quoted = [
        "".join(chr(c) if c < 128 and chr(c).isalnum() else f"\\x{c:02x}" for c in word) for word in sorted(words)
    ]
    dictionary.write_text("".join(f'"{word}"\n' for word in quoted))
    kinds: dict[str, str] = {}
    figures = {"tried": 0, "slow": 0, "slowest": 0.0}
    saved = began = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal saved
        at = time.process_time()
        try:
            target.run(data)
        except Exception as fault:
            kind = kind_of(fault)
            if kind not in kinds:
                file = folder / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
                file.write_bytes(data)
                kinds[kind] = f"{file.name} {type(fault).__name__}: {str(fault)[:2_000]}"
        took = time.process_time() - at
        figures["tried"] += 1
        figures["slow"] += took > SLOW
        figures["slowest"] = max(figures["slowest"], took)
        now = time.monotonic()
        if now - saved > SAVE_EVERY:
            saved = now
            said = {**figures, "seconds": now - began, "crashes": sorted(kinds.values())}
            (folder / "figures.json").write_text(json.dumps(said))

    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-seed={seed}", f"-dict={dictionary}",
               f"-artifact_prefix={folder}/", "-timeout=20", "-verbosity=0", "-reload=0"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(new), str(target.folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
