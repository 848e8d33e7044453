"""Every input of the corpus, and some thousand mutants of it, keep every law of their target.

What the long runs of `make fuzz` found is in the corpus too, so a fault that was mended stays mended.
"""

from __future__ import annotations

import fuzz_engine
import pytest
from fuzz_targets import CORPUS, MAX_FILE, TARGETS, Target

MUTANTS = {"request": 400, "response": 250, "chunked": 600, "sse": 120, "proxy": 300, "config": 120, "trace": 200}
SEED = 7
LEAST = 20  # files of a target
VARIED = {"request": 15, "response": 4, "chunked": 3, "sse": 4, "proxy": 4, "facts": 6, "usage": 3, "config": 5,
          "metrics": 4, "trace": 3,
          "frames": 6, "fields": 8}  # fmt: skip
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)


@each_target
def test_the_corpus_keeps_every_law(target: Target) -> None:
    faults = []
    outcomes = set()
    for name, data in target.corpus():
        try:
            outcomes.add(target.run(data))
        except Exception as fault:
            faults.append(f"{name}: {type(fault).__name__}: {str(fault)[:500]}")
    assert not faults, "\n".join(faults)
    assert len(outcomes) >= VARIED[target.name], f"the corpus reaches too little: {sorted(outcomes)}"


@each_target
def test_mutants_of_it_do_too(target: Target) -> None:
    report = fuzz_engine.fuzz(target, seconds=60.0, seed=SEED, most=MUTANTS.get(target.name, 1_000), traced=0)
    assert not report.crashes, "\n".join(f"{fault[:700]}\n{data!r}" for data, fault in report.crashes)
    assert report.tried == MUTANTS.get(target.name, 1_000)


@each_target
def test_the_same_seed_tries_the_same_inputs(target: Target) -> None:
    tried: list[list[bytes]] = []
    for _ in range(2):
        seen: list[bytes] = []
        watched = Target(target.name, lambda data: seen.append(data) or "", target.words, target.modules)  # type: ignore[func-returns-value]  # noqa: B023
        fuzz_engine.fuzz(watched, seconds=60.0, seed=SEED, most=20, traced=0)
        tried.append(seen)
    assert tried[0] == tried[1]
    assert len(set(tried[0])) > 10


def test_corpus_files_are_small_and_each_is_there_once() -> None:
    assert {folder.name for folder in CORPUS.iterdir() if folder.is_dir()} == set(TARGETS)
    for target in TARGETS.values():
        corpus = target.corpus()
        assert len(corpus) >= LEAST
        assert len({data for _, data in corpus}) == len(corpus), f"{target.name}: an input is there twice"
        assert all(len(data) <= MAX_FILE for _, data in corpus)
