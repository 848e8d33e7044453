"""Which engine is it? From all answers, from some of them, and from misleading ones."""

from __future__ import annotations

import pytest
from engine_samples import LLAMACPP, NOT_FOUND, OWN_ANSWERS, VLLM_NEW, full_answers, models, page

from fairlead.engines.interface import Answer
from fairlead.engines.registry import DIALECTS, NAMES, all_clues, detect

CLUES = all_clues()
ENGINES = [name for name in NAMES if name != "generic"]


def test_every_dialect_has_sample_answers() -> None:
    assert set(OWN_ANSWERS) == set(NAMES)
    assert NAMES[-1] == "generic"  # it fits everything, so it must lose every tie


def test_clues_are_the_union_without_repetition() -> None:
    assert len(CLUES) == len(set(CLUES)) <= 16  # each is a request to every new backend
    assert set(CLUES) == {path for dialect in DIALECTS.values() for path in dialect.clues}


@pytest.mark.parametrize("name", NAMES)
def test_all_answers_lead_to_the_engine_and_to_no_other(name: str) -> None:
    answers = full_answers(name, CLUES)
    assert detect(answers).name == name
    rivals = {other: dialect.recognise(answers) for other, dialect in DIALECTS.items() if other != name}
    assert max(rivals.values()) < DIALECTS[name].recognise(answers)


PARTIAL = [(name, path) for name in ENGINES for path in OWN_ANSWERS[name]]
NOT_ENOUGH = {("trtllm", "/server_info"), ("trtllm", "/version"), ("tgi", "/v1/models")}


@pytest.mark.parametrize(("name", "path"), PARTIAL)
def test_one_answer_is_missing(name: str, path: str) -> None:
    answers = full_answers(name, CLUES) | {path: NOT_FOUND}
    assert detect(answers).name == name


@pytest.mark.parametrize(("name", "path"), [pair for pair in PARTIAL if pair not in NOT_ENOUGH])
def test_one_answer_is_all_there_is(name: str, path: str) -> None:
    assert detect({path: OWN_ANSWERS[name][path]}).name == name


@pytest.mark.parametrize(
    ("expected", "answers"),
    [
        ("generic", {}),
        ("generic", dict.fromkeys(CLUES, NOT_FOUND)),
        ("generic", {path: Answer(401, b'{"error":"Unauthorized"}') for path in CLUES}),
        ("generic", {path: Answer(200, b"") for path in CLUES}),
        ("generic", {path: Answer(200, b"<html>hello</html>") for path in CLUES}),
        ("generic", {"/v1/models": models("someone"), "/version": page({"version": "0.7"})}),
        ("generic", {"/version": page({"version": "1", "gitVersion": "v1.30"})}),
        ("generic", {"/v2": page({"name": "OpenVINO Model Server", "version": "2"}), "/v2/health/ready": Answer(200)}),
        ("generic", {"/info": page({"model_id": "bge", "max_input_length": 512, "version": "1.7"})}),
        ("generic", {"/server_info": page({"anything": 1}), "/metrics": Answer(200, b"python_gc_total 1\n")}),
        ("vllm", {"/version": page({"version": "0.32.0"})}),
        ("vllm", {"/version": page({"version": "0.32.0"}), "/v1/models": Answer(401)}),
        ("vllm", {"/metrics": Answer(200, b"# HELP vllm:x y\n# TYPE vllm:x gauge\n")}),
        ("vllm", {"/server_info": page({"vllm_config": "..."})}),
        ("sglang", {"/get_server_info": OWN_ANSWERS["sglang"]["/server_info"]}),
        ("sglang", {"/v1/models": models("sglang"), "/api/version": page({"version": "0.5"})}),
        ("trtllm", {"/metrics": page([]), "/version": page({"version": "1.1.0"})}),
        ("trtllm", {"/v1/models": models("tensorrt_llm"), "/version": page({"version": "1.1.0"})}),
        ("llamacpp", {"/v1/models": Answer(503, b'{"error":{"message":"Loading model"}}', {"server": "llama.cpp"})}),
        ("llamacpp", {"/metrics": Answer(200, LLAMACPP), "/api/version": page({"version": "1"})}),
        ("triton", {"/v2/health/ready": Answer(200, b"")}),
    ],
)
def test_few_or_misleading_answers(expected: str, answers: dict[str, Answer]) -> None:
    assert detect(answers).name == expected


@pytest.mark.parametrize(
    "mark",
    [
        {"/v1/models": models("fairlead", "llama")},
        {"/v1/models": Answer(200, models("vllm").body, {"server": "fairlead"})},
        {"/v1/models": Answer(200, models("vllm").body, {"via": "1.1 fairlead"})},
        {"/metrics": Answer(200, b"# TYPE fairlead_requests_total counter\n" + VLLM_NEW)},
    ],
    ids=["owner", "server", "via", "metrics"],
)
def test_another_fairlead_is_generic_although_its_engines_answer_through_it(mark: dict[str, Answer]) -> None:
    assert detect(full_answers("vllm", CLUES) | mark).name == "generic"


def test_a_front_with_several_engines_behind_it_is_none_of_them() -> None:
    both = page({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "sglang"}]})
    assert detect({"/v1/models": both}).name == "generic"
