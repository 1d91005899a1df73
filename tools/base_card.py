"""The embedded base's model card, written from the facts of its corpus and training."""

from pathlib import Path
from typing import Any

CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# bakeoff's embedded base

A GPT-2-architecture causal language model of {parameters:,} parameters ({layers} layers, width {width}, context
{context}, its own byte-level BPE of {vocabulary:,} tokens), so that a bakeoff runs without a network. It knows the
prose of Python documentation and little else. It is a base for comparing methods, not a model to be used as it is.

| | |
|---|---|
| tokens seen | {tokens_seen:,} (of a corpus of {corpus_tokens:,}; a new pass at each sequence length) |
| held-out loss | {held_out_loss:.3f} nats per token, {bits_per_byte:.3f} bits per byte, 512-token windows |
| held-out packages | {held_out} |
| time and hardware | {hours:.2f} hours, {hardware} |
| date | {date} |

## Recipe
`make base` (tools/pretrain_base.py), which can be interrupted and resumed. The same inputs give the same
weights on the same machine. Batches of {batch_tokens:,} tokens; sequences of 128 tokens up to {short_tokens:,}
tokens, then 256, and 512 while the learning
rate decays linearly to zero over the last {decay:.0%}. Muon at {muon} for the blocks' matrices, AdamW at {adam} for the
rest, no dropout, {precision}. Stored as fp16.

## Data
Docstrings, block comments and package descriptions from the wheels below, without duplicates, at most 4 million
characters per package. No package of the docstring task (validation, test or train) is among them.
{near} texts that share over a fifth of their 8-word shingles with the task's validation or test examples were
dropped. The texts are not included; each belongs to the authors of its package.

{packages}
"""


def write_card(
    path: Path, model_config: Any, corpus: dict[str, Any], result: dict[str, Any], recipe: dict[str, Any]
) -> None:
    """Write the card to `path`."""
    packages = ", ".join(f"{name} {facts['version']}" for name, facts in corpus["packages"].items() if facts["texts"])
    path.write_text(
        CARD.format(
            parameters=result["parameters"],
            layers=model_config.n_layer,
            width=model_config.n_embd,
            context=model_config.n_positions,
            vocabulary=model_config.vocab_size,
            corpus_tokens=corpus["train"]["tokens"],
            held_out=", ".join(corpus["held_out_packages"]),
            hours=result["seconds"] / 3600,
            near=corpus["dropped_near_task"],
            packages=packages,
            **{k: result[k] for k in ("tokens_seen", "held_out_loss", "bits_per_byte", "hardware", "date")},
            **recipe,
        ),
        encoding="utf-8",
    )
