"""Tries exports to llama.cpp for real: `python tools/try_llama_cpp.py LLAMA_CPP MODEL [--tokenizer FOLDER] [--chat]`.

Trains a LoRA for one epoch on docstrings, over the model in the folder MODEL, exports it in each format and prints one
row of docs/export.md for each. With --tokenizer, MODEL is first made: a GPT-2 of three blocks with random weights, and
this tokenizer; with --chat also with ChatML as its chat template, so that documents are turns, and a last row is that
of Ollama's template. The model's outputs are poor, and what is compared is whether both programs write the same.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import bakeoff
from bakeoff.export.comparison import points
from bakeoff.export.options import GGUF_DTYPES
from bakeoff.testing.chats import CHATML

SIZES = {"train_limit": 200, "validation_limit": 24, "test_limit": 40}


def random_gpt2(folder: Path, tokenizer: Path, chat: bool) -> None:
    """Write a small GPT-2 of random weights with a copy of a tokenizer's files; `chat`: with ChatML's tokens, too."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    own = AutoTokenizer.from_pretrained(tokenizer)
    if chat:
        own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        own.chat_template = CHATML
    torch.manual_seed(0)
    end = own.eos_token_id
    config = GPT2Config(n_embd=64, n_layer=3, n_head=4, bos_token_id=end, eos_token_id=end, vocab_size=len(own))
    GPT2LMHeadModel(config).save_pretrained(folder)
    if chat:
        own.save_pretrained(folder)
        return
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--chat", action="store_true")
    asked = parser.parse_args()
    if asked.tokenizer:
        random_gpt2(asked.model, asked.tokenizer, asked.chat)
    with TemporaryDirectory(prefix="bakeoff-") as temporary:
        config = {
            "name": "gguf", "model": str(asked.model.resolve()), "data": {"source": "docstrings", **SIZES},
            "entries": {"lora": {"learning_rate": 2e-3}}, "tune": None, "baselines": ["base"],
            "protocol": {"epochs": 1, "max_tokens": 256, "seeds": 1}, "output": f"{temporary}/out",
        }  # fmt: skip
        results = bakeoff.run(config, display="none")
        wanted = [("gguf", dtype) for dtype in GGUF_DTYPES] + ([("ollama", "fp32")] if asked.chat else [])
        for to, dtype in wanted:
            place = Path(temporary, f"{to}-{dtype}")
            made = results.export(to, "lora", output=place, dtype=dtype, llama_cpp=asked.llama_cpp)
            check = made.check
            assert check is not None, "build llama-server"
            cells = [
                f"{to} {dtype}", f"{check.equal} of {check.examples}", points(check.score),
                f"{check.prompts} of {check.examples}", f"{check.whole} of {check.uncut}",
                "yes" if check.ends else "no", f"{check.seconds:.1f}", f"{made.made['bytes']:,}",
            ]  # fmt: skip
            print(f"| {asked.model.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
