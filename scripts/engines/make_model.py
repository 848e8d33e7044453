"""Where does a model for tests come from when nothing may be downloaded?

From a seed: a Llama with random weights, and a tokenizer trained on the source files of Python's standard library. It
writes nonsense, but it takes the same way through the engine as a real one: chat template, prefix cache, batching.
Rule 1: two runs with one Python give the same model, so that two engines answer the same.
Rule 2: run it with the environment of the engines (torch, transformers); nothing of fairlead is needed.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

CONTEXT_TOKENS = 32768
VOCABULARY = 8192
BEGIN, END = "<s>", "</s>"
SPECIAL_TOKENS = [BEGIN, END, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]

# One turn is <|role|>text<|end|>; the answer begins after <|assistant|>.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Size:
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int


SIZES = {
    "16m": Size(hidden=384, layers=6, intermediate=1024, heads=6, kv_heads=2),  # quick: functional tests
    "33m": Size(hidden=512, layers=8, intermediate=1536, heads=8, kv_heads=2),
    "81m": Size(hidden=768, layers=10, intermediate=2304, heads=12, kv_heads=4),  # prefill is slow enough to matter
}


def write_tokenizer(directory: Path) -> int:
    """Trains a byte-level BPE and saves it; returns how many tokens it knows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = sorted(str(path) for path in Path(sysconfig.get_path("stdlib")).glob("*.py"))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, pad_token=END, model_max_length=CONTEXT_TOKENS
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    return len(tokenizer)


def write_weights(directory: Path, size: Size, vocabulary: int) -> int:
    """Saves random weights in bfloat16; returns the number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        intermediate_size=size.intermediate,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=SPECIAL_TOKENS.index(BEGIN),
        eos_token_id=SPECIAL_TOKENS.index(END),
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(shape).to(torch.bfloat16)
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    options = argparse.ArgumentParser(description="Write a small Llama with random weights.")
    options.add_argument("--size", choices=sorted(SIZES), default="16m")
    options.add_argument("directory", type=Path)
    chosen = options.parse_args()
    begun = time.monotonic()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(chosen.directory)
    parameters = write_weights(chosen.directory, SIZES[chosen.size], vocabulary)
    took = time.monotonic() - begun
    print(f"{chosen.directory}: {parameters / 1e6:.1f} million parameters, {vocabulary} tokens, {took:.1f} s")


if __name__ == "__main__":
    main()
