"""Tests what bakeoff can do with every text architecture of transformers, made tiny.

Each is tested in its own process, which may hang, crash or need too much memory; the page then says so.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from bakeoff.child_process import end_with_parent, limit
from bakeoff.compute.decoding.conformance import conforming, rows_for, virtual_tokens_differ
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import Base, adapt, trainable
from bakeoff.compute.model.device import forked_random, out_of_memory
from bakeoff.compute.model.loading import quiet
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.data.tokens import Tokens
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.library_errors import in_short, one_line
from bakeoff.methods import build_method, method_class
from bakeoff.methods.soft_prompts import SoftPrompt
from bakeoff.store.checksums import open_regular
from bakeoff.store.files import append_jsonl, json_object, read_jsonl
from bakeoff.testing.families import ROWS
from bakeoff.testing.tiny_configs import tiny_base, tiny_shape

OUTPUT = 6  # tokens
SECONDS = 120  # for an architecture
MEMORY = 8 * 2**30
# So many that every expert of a mixture meets a token.
MANY_ROWS = (*ROWS, *(Tokens(list(range(i, i + 20)), [i + 3, i + 9, 0]) for i in range(3, 75, 6)))
TRIED = ("lora", "ia3", "layer_norm", "last_layers", "full", "prompt_tuning", "prefix_tuning")  # one of each kind
Row = dict[str, Any]
LINE = b'{"kind": "'  # how a line of stored rows begins


def architectures() -> list[tuple[str, Any]]:
    """Return the model types that transformers has a causal or an encoder-decoder class for, with that class's factory.

    A type with both has the encoder-decoder's.
    """
    both: dict[str, Any] = dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM)
    both |= dict.fromkeys(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM)
    return sorted(both.items())


def architecture_rows(
    kinds: Mapping[str, Any], keep: Path | None, on_progress: Callable[[str], None]
) -> dict[str, Row]:
    """Return each architecture's row; `on_progress` is called with each. Rows in `keep` are not tested again."""
    rows = {kind: row for kind, row in (kept_rows(keep) if keep else {}).items() if kind in kinds}
    for number, (kind, factory) in enumerate(kinds.items(), 1):
        if kind not in rows:
            on_progress(f"{number} of {len(kinds)}: {kind}")
            rows[kind] = isolated_row(kind, factory)
            if keep is not None:
                append_jsonl(keep, {"kind": kind, "row": rows[kind]})
    return dict(sorted(rows.items()))


def kept_rows(file: Path) -> dict[str, Row]:
    """Return the rows that an interrupted test stored in a file, none where there is no file.

    Raises SetupError where it is another file: rows would be appended to it.
    """
    if not file.exists():
        return {}
    with open_regular(file) as stream:
        begins = stream.read(len(LINE))
    try:
        if LINE.startswith(begins):  # its last line may be torn
            return dict(read_jsonl(file, stored_row))
    except SetupError:  # a line of something else
        pass
    raise SetupError(f"--keep: {file}: exists, and was not written by --keep. Try: another file")


def stored_row(line: bytes) -> tuple[str, Row]:
    """Return an architecture and its row from a line of stored rows; raise ValueError if it holds something else."""
    kind, row = (json_object(line).get(key) for key in ("kind", "row"))
    if not (isinstance(kind, str) and isinstance(row, dict) and {"model", "note"} <= row.keys()):
        raise ValueError("not a row of an architecture")
    return kind, row


def isolated_row(kind: str, factory: Any, seconds: float = SECONDS, memory: int = MEMORY) -> Row:
    """Return what `architecture_row` returns, tried in a process that has so much time and memory and no more."""
    ours, theirs = (context := get_context("fork")).Pipe(duplex=False)

    def answer() -> None:
        end_with_parent()
        limit(memory)
        torch.set_num_threads(1)  # this process has none of the other's threads
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # standard output is the page
        try:
            theirs.send(architecture_row(kind, factory))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not out_of_memory(error):
                raise
            theirs.send(not_built(f"takes more than {memory / 2**30:.3g} GiB of memory"))

    child = context.Process(target=answer, daemon=True)
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else not_built(f"takes more than {seconds:g} s")
    except EOFError:
        child.join()
        return not_built(f"its process ended with status {child.exitcode}")
    finally:
        child.kill()
        child.join()
        ours.close()


def not_built(reason: str) -> Row:
    """Return the row of an architecture of which nothing is known but why."""
    return {"model": None, "note": reason}


def architecture_row(kind: str, factory: Any) -> Row:
    """Return what bakeoff can do with an architecture: how it is decoded, and which methods train on it."""
    with quiet(), quietly():
        try:
            base, config = tiny_base(kind, factory)
        except SetupError as error:
            return not_built(in_short(error.__cause__ or error))
        row: Row = {"model": type(base.model).__name__, "methods": {}}
        try:
            base, note = conforming(base)
        except BakeoffError as error:
            return row | {"decodes": "no", "note": str(error).removeprefix(f"model: {row['model']}: ")}
        row |= {"decodes": "with its cache" if note is None else "without its cache", "note": ""}
        row["generate"] = equals_generate(base)
        row["methods"] = {name: trains(base, tiny_shape(config, factory), name) for name in TRIED}
        return row


@contextmanager
def quietly() -> Iterator[None]:
    """Hide warnings that libraries give about tiny models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def equals_generate(base: Base) -> bool | None:
    """Return whether greedy outputs are those of transformers' own generate, without its cache; None where it fails."""
    prompts = [row.prompt for row in rows_for(base)]
    ours = generate(base, base.model, prompts, OUTPUT)
    try:
        with one_line("generate"):  # their side of the comparison, whatever is wrong with it
            theirs = [generated(base, prompt) for prompt in prompts]
    except SetupError:
        return None
    return ours == theirs


@torch.no_grad()
def generated(base: Base, prompt: Sequence[int]) -> list[int]:
    """Return transformers' greedy output for one prompt."""
    ids = torch.tensor([[*prompt]])
    start = {} if base.decoder_start is None else {"decoder_start_token_id": base.decoder_start}
    out = base.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=OUTPUT, eos_token_id=0,
        pad_token_id=0, num_beams=1, repetition_penalty=1.0, use_cache=False, **start,
    )[0].tolist()  # fmt: skip
    new = out[1:] if start else out[len(prompt) :]
    return new[: new.index(0)] if 0 in new else new


def trains(base: Base, shape: PreTrainedModel, name: str) -> str | None:
    """Return None where a method can be used, else why not.

    It can where a plan takes it, a batch's loss reaches all that it trains, and virtual tokens that are words are read
    as those words are.
    """
    method = build_method(name, {"method": name, **method_class(name).tiny})
    copy = replace(base, model=deepcopy(base.model))
    try:
        adapted_shape(shape, method)
        with one_line(name), forked_random():
            torch.manual_seed(0)  # some routers draw, and which experts meet a token must not depend on what ran before
            adapted = adapt(copy, method)
            target_losses(copy, adapted, batch_of(copy, MANY_ROWS)).mean().backward()
            if isinstance(method, SoftPrompt):
                wrong = virtual_tokens_differ(copy, adapted.eval(), method.words(copy.model, copy.tokenizer))
                if wrong:
                    return f"{name}: {wrong} behind virtual tokens are not what the plain forward pass gives"
    except BakeoffError as error:
        return str(error)
    idle = [n for n, weight in trainable(adapted).items() if weight.grad is None]
    return f"{len(idle)} tensors are never trained ({idle[0]} first)" if idle else None


def architectures_page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in Markdown what bakeoff can do with each architecture, and which are refused or untried."""
    lines = [
        "## Further architectures",
        "",
        "`bakeoff methods --architectures` writes this table. It has every causal and encoder-decoder class of",
        "transformers of which a tiny model could be built. Losses and greedy outputs of each were compared with the",
        "plain forward pass of one row alone, as for any base that is loaded. *cache*: *without* one, outputs are the",
        "same, but take longer. *generate*: greedy outputs equal those of transformers' own generate. Methods: yes if",
        "a plan accepts the method, a batch's loss reaches all weights that it trains, and virtual tokens that start",
        "as words are read as those words, in losses and in decoding.",
        "",
        "| model type | class | cache | generate | " + " | ".join(TRIED) + " |",
        "|---" * (len(TRIED) + 4) + "|",
    ]
    for kind, row in rows.items():
        if row["model"] and row["decodes"] != "no":
            same = {True: "yes", False: "differs", None: "not compared"}[row["generate"]]
            cells = ["no" if row["methods"][name] else "yes" for name in TRIED]
            cache = row["decodes"].removesuffix(" its cache")
            lines.append(f"| {kind} | {row['model']} | {cache} | {same} | {' | '.join(cells)} |")
    refused = [f"- {k} ({row['model']}): {row['note']}" for k, row in rows.items() if row.get("decodes") == "no"]
    untried = [f"- {kind}: {row['note']}" for kind, row in rows.items() if not row["model"]]
    lines += ["", "Refused (if sizes do not fit, the tiny config may be the cause):", "", *refused]
    lines += ["", "Not tried, since no tiny model could be built:", "", *untried]
    return "\n".join(lines)
