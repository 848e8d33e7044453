"""Which engines are known, and which of them is this one?

A plain table: adding an engine is adding a row. The order breaks ties; `generic` stands last and fits everything.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from fairlead.engines.generic import Generic, LMDeploy, Ollama
from fairlead.engines.interface import Answers, Dialect
from fairlead.engines.llamacpp import LlamaCpp
from fairlead.engines.sglang import SGLang
from fairlead.engines.tgi import TGI
from fairlead.engines.triton import Triton, TritonOpenAI
from fairlead.engines.trtllm import TensorRTLLM
from fairlead.engines.vllm import VLLM

GENERIC: Final[Dialect] = Generic()

DIALECTS: Final = MappingProxyType[str, Dialect](
    {
        "vllm": VLLM(),
        "sglang": SGLang(),
        "trtllm": TensorRTLLM(),
        "triton": Triton(),
        "triton-openai": TritonOpenAI(),
        "tgi": TGI(),
        "llamacpp": LlamaCpp(),
        "lmdeploy": LMDeploy(),
        "ollama": Ollama(),
        "generic": GENERIC,
    }
)

NAMES: Final = tuple(DIALECTS)
"""The words allowed in config files, for `difflib.get_close_matches` and friends."""


def all_clues() -> tuple[str, ...]:
    """Every path worth fetching from an unknown engine, each once, in a fixed order."""
    return tuple(dict.fromkeys(path for dialect in DIALECTS.values() for path in dialect.clues))


def detect(answers: Answers) -> Dialect:
    """The dialect that fits best; `generic` where nothing is certain. Never raises."""
    return max(DIALECTS.values(), key=lambda dialect: dialect.recognise(answers))  # the first of equals
