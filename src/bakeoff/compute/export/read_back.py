"""The process that loads an export as other programs do, and generates outputs for the test split.

`python -m bakeoff.compute.export.read_back` reads a request from standard input, as JSON: "folder" and "run" of a
bakeoff, "form" and "export", the folder to read, and "limit", how many test examples. It prints what it found, or
{"error": line}. Only transformers and PEFT run the model: its own `generate`, with the generation config of the export.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from bakeoff.compute.export.answer import answer
from bakeoff.compute.export.files import plain_base
from bakeoff.compute.export.source import Source
from bakeoff.compute.model.device import choose
from bakeoff.compute.model.loading import model_class, quiet
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.chat_parity import own_ids
from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm, as_tested, form_of, stops_of
from bakeoff.data.token_file import tested
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens, encode
from bakeoff.library_errors import one_line
from bakeoff.methods.method import quiet_peft
from bakeoff.store.run_folder import Folder

ROWS = 8  # decoded together, of one length: nothing is padded, so no row depends on a mask


def read_back(folder: str, run: str, form: str, export: str, limit: int | None, device: str) -> dict[str, Any]:
    """Return what the export in a folder gives for the first `limit` test examples.

    That is its "outputs", their "losses" (sum and target tokens), the "seconds" that outputs took, how many "prompts"
    have the ids of training, how many "whole" prompts have them if they are tokenized as one text, and whether the
    "ends" are equal: the ids that end targets and outputs.
    """
    source, there = Source(Folder(folder), run), Path(export)
    examples, rows = tested(source.folder, limit)
    with quiet(), quiet_peft(), one_line(f"{there}: cannot be read back"):
        model = load(source, form, there).to(choose(device)).requires_grad_(False).eval()
        config, tokenizer = GenerationConfig.from_pretrained(there), AutoTokenizer.from_pretrained(there)
        chat, encoder_decoder = source.plan.chat is not None, bool(inner_config(model).is_encoder_decoder)
        written = as_tested(form_of(source.config, tokenizer, chat, encoder_decoder))
        started = time.perf_counter()
        ids = outputs(model, config, [row.prompt for row in rows])
        seconds = time.perf_counter() - started
        losses = [loss(model, row) for row in rows]
    texts = written.texts(ids, INDENT in source.plan.texts)
    found: dict[str, Any] = {"outputs": texts, "losses": losses, "seconds": seconds}
    return found | parity(source, written, config, examples, rows)


def load(source: Source, form: str, there: Path) -> Any:
    """Return the exported model as others load it: in the dtype of its files, or as an adapter on the plain base."""
    if form == "merged":
        return model_class(AutoConfig.from_pretrained(there)).from_pretrained(there)
    from peft import PeftModel

    return PeftModel.from_pretrained(plain_base(source), str(there))


def inner_config(model: Any) -> Any:
    """Return transformers' config of a model, which PEFT may have wrapped."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).config


@torch.no_grad()
def outputs(model: Any, config: GenerationConfig, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return each prompt's output by the model's own `generate`, without the token that ends it."""
    found: list[list[int]] = [[] for _ in prompts]
    ends, device = {*ids_of(config.eos_token_id)}, next(model.parameters()).device
    for members in of_one_length(prompts):
        ids = torch.tensor([prompts[i] for i in members], device=device)
        with warnings.catch_warnings():  # PEFT makes the positions of a soft prompt itself: right, as nothing is padded
            warnings.filterwarnings("ignore", message="Position ids are not supported", category=UserWarning)
            made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        start = 1 if inner_config(model).is_encoder_decoder else ids.shape[1]
        for i, row in zip(members, made[:, start:].tolist(), strict=True):
            found[i] = row[: next((place for place, token in enumerate(row) if token in ends), len(row))]
    return found


def ids_of(end: int | list[int] | None) -> list[int]:
    """Return the ids of a generation config's end, which may be one or several."""
    return end if isinstance(end, list) else [] if end is None else [end]


def of_one_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the indices of prompts, at most ROWS of one length at a time."""
    for _, group in groupby(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), lambda i: len(prompts[i])):
        alike = [*group]
        for start in range(0, len(alike), ROWS):
            yield alike[start : start + ROWS]


@torch.no_grad()
def loss(model: nn.Module, row: Tokens) -> tuple[float, int]:
    """Return the sum of an example's loss, in nats, and its target tokens, from one plain call of the model."""
    device, config = next(model.parameters()).device, inner_config(model)
    if config.is_encoder_decoder:
        inputs = {"input_ids": [row.prompt], "decoder_input_ids": [[config.decoder_start_token_id, *row.target[:-1]]]}
    else:
        inputs = {"input_ids": [row.prompt + row.target[:-1]]}
    given = {name: torch.tensor(ids, device=device) for name, ids in inputs.items()}
    logits = model(**given, attention_mask=torch.ones_like(given["input_ids"])).logits[0, -len(row.target) :]
    wanted = torch.tensor(row.target, device=device)
    return float(cross_entropy(logits.float(), wanted, reduction="sum")), len(row.target)


def parity(
    source: Source, form: AnyForm, config: GenerationConfig, examples: Sequence[Example], rows: Sequence[Tokens]
) -> dict[str, Any]:
    """Return how the export's own tokenizer and end compare with those of training."""
    plan, tokenizer = source.plan, form.tokenizer
    again = [*encode(examples, form, plan.max_tokens, source.output_tokens, "data.test")]
    same = [new.prompt == old.prompt for new, old in zip(again, rows, strict=True)]
    whole = sum(not row.cut and as_one_text(form, e) == row.prompt for e, row in zip(examples, rows, strict=True))
    ends = {*ids_of(config.eos_token_id)} == {tokenizer.eos_token_id, form.target_end[-1], *stops_of(plan)}
    uncut = sum(not row.cut for row in rows)
    return {"prompts": sum(same), "whole": whole, "uncut": uncut, "ends": ends}


def as_one_text(form: AnyForm, example: Example) -> list[int]:
    """Return the ids of a prompt that is tokenized as one text, as users of the export do."""
    if isinstance(form, ChatForm):
        return next(own_ids(form, form.conversation(example)))
    before, after = example.around or form.constant
    return form.tokenizer(f"{before}{example.document}{after}")["input_ids"]


if __name__ == "__main__":
    answer(read_back)
