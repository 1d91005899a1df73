"""The card of an export, its README.md: what it is, what it lost, how to use it."""

import json
from pathlib import Path
from typing import Any

from bakeoff import __version__
from bakeoff.analysis.table import escape_markdown
from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.export.comparison import Check, nats, points
from bakeoff.export.job import Job
from bakeoff.export.options import BY_LLAMA_CPP
from bakeoff.report.cards import PACKED, base_name, facts, front_matter, on_hub, prompt, scores
from bakeoff.store.files import write_text
from bakeoff.store.results_document import ResultsDocument

WHAT = {
    "merged": "a whole model: the adapter is merged into the weights of its base",
    "peft": "an adapter in PEFT's format, for the base that it was trained on",
    "gguf": "one file for llama.cpp: the adapter is merged into the weights of its base",
    "ollama": "one file and a Modelfile for Ollama: the adapter is merged into the weights of its base",
    "lora": "a plain LoRA that was made from the adapter, for the base that it was trained on",
}
WHOLE = """\
```python
from transformers import AutoTokenizer, {family}

tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
model = {family}.from_pretrained("path/of/this/folder")
{asked}
print(tokenizer.decode(model.generate(ids)[0{start}], skip_special_tokens=True))
```"""
ADAPTER = """\
```python
import torch
from peft import PeftModel
from transformers import {classes}

{packed}base = {family}.from_pretrained({base}, {how})
model = PeftModel.from_pretrained(base, "path/of/this/folder").eval()
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
settings = GenerationConfig.from_pretrained("path/of/this/folder")
{asked}
print(tokenizer.decode(model.generate(input_ids=ids, generation_config=settings)[0{start}], skip_special_tokens=True))
```"""


def write_card(folder: Path, job: Job, made: dict[str, Any], check: Check | None, more: str = "") -> None:
    """Write an export's card; `more` says how to use it, if transformers does not load it."""
    record = job.folder.run(job.run.id).finished()
    assert record is not None, job.run.id
    document, name = job.document, job.run.entry
    parts = [
        f"---\n{front_matter(document, name, record, library(job))}\n---",
        f"# {escape_markdown(name)}: {escape_markdown(base_name(document))} adapted by {job.run.method}",
        f"This is {WHAT.get(job.options.to, WHAT[job.form])}. bakeoff {__version__} exported it from entry `{name}` of "
        f"the bakeoff `{document.name}`, seed {job.run.seed}.",
        "## What the export lost",
        lost(made, check, document.precision),
        "## Scores of the adapter before the export",
        scores(document, name, record),
        "## How to use it",
        more or usage(job, made["encoder_decoder"]),
        *prompt(document),
        lengths(document, made["encoder_decoder"]),
        "## How it was made",
        facts(document, record),
    ]
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def library(job: Job) -> str:
    """Return the hub's name for what loads an export."""
    if job.options.to in BY_LLAMA_CPP:
        return "gguf"
    return "transformers" if job.form == "merged" else "peft"


def lost(made: dict[str, Any], check: Check | None, precision: str) -> str:
    """Return what the check showed, as a table, or that there was none; `precision` is that of the evaluation."""
    size = {"size": f"{made['bytes']:,} bytes", "weights": made["dtype"]}
    if "kept" in made:
        kept = f"{100 * made['kept']:.4g} % of the squared size of all changes of weights"
        size["rank"] = f"{made['rank']}, which keeps {kept}"
    if check is None:
        return f"**Not checked.** This export was not read back.\n\n{table(size)}"
    rows = {
        "outputs equal to those of the evaluation": f"{check.equal} of {check.examples}",
        f"{check.heading}, export - evaluation (95 % interval)": points(check.score),
        "test loss, export - evaluation (95 % interval)": loss_lost(check, precision),
        "prompts with the token ids of training": f"{check.prompts} of {check.examples}",
        "the same, with the prompt tokenized as one text": f"{check.whole} of {check.uncut} that were not cut"
        if check.uncut
        else "all were cut",
        "token that ends an output": "that of training" if check.ends else "**not that of training**",
        "seconds for all outputs": f"{check.seconds:.1f}",
        "read back by": check.by,
    }
    notes = [f"**{line[:1].upper()}{line[1:]}.**" for line in check.complaints()]
    return "\n\n".join([*notes, table(rows | size)])


def loss_lost(check: Check, precision: str) -> str:
    """Return by how much the loss differs; a check reads it in fp32, an evaluation in the precision of training."""
    if check.loss is None:
        return "not measured"
    return nats(check.loss) + ("" if precision == "fp32" else f"; the evaluation read it in {precision}")


def table(rows: dict[str, str]) -> str:
    """Return a table of two columns."""
    lines = "\n".join(f"| {escape_markdown(key)} | {value} |" for key, value in rows.items())
    return f"| test split | |\n|---|---|\n{lines}"


def usage(job: Job, encoder_decoder: bool) -> str:
    """Return the code that loads the export and makes one output, as its check did."""
    document = job.document
    family = "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"
    words = {
        "family": family, "asked": asked(document), "start": "" if encoder_decoder else ", ids.shape[1] :",
    }  # fmt: skip
    if job.form == "merged":
        return WHOLE.format(**words)
    packed = job.run.quantize in PACKED
    base = document.model.name if on_hub(document) else "path/of/the/base"
    return ADAPTER.format(
        **words,
        classes=", ".join(["AutoTokenizer", *(["BitsAndBytesConfig"] if packed else []), "GenerationConfig", family]),
        packed=f"packed = {PACKED[job.run.quantize].format(dtype='float32')}\n" if packed else "",
        base=json.dumps(base), how="quantization_config=packed" if packed else "dtype=torch.float32",
    )  # fmt: skip


def lengths(document: ResultsDocument, encoder_decoder: bool) -> str:
    """Return how long prompts and outputs were, and what was left out of longer ones: others leave out nothing."""
    turns = document.chat is not None and document.chat["turns"]
    cut = "the oldest turns of a longer conversation were left out" if turns else "a longer document was cut at its end"
    both = "its prompt has" if encoder_decoder else "prompt and output together have"
    return (
        f"In the bakeoff {cut}, so that {both} at most {document.max_tokens} tokens; an output has at most "
        f"{document.output_tokens}. Other programs cut nothing of themselves."
    )


def asked(document: ResultsDocument) -> str:
    """Return the code that makes the ids of a prompt."""
    if document.chat is not None and document.chat["turns"]:
        turns = '[{"role": "user", "content": question}]'
    else:
        around_it = around(document.template) or ("the text before", "the text after")
        before, after = (json.dumps(text, ensure_ascii=False) if text else "" for text in around_it)
        text = " + ".join(part for part in (before, "document", after) if part)
        if document.chat is None:
            return f'prompt = {text}\nids = tokenizer(prompt, return_tensors="pt").input_ids'
        turns = f'[{{"role": "user", "content": {text}}}]'
    system = document.chat["system"]
    first = f'{{"role": "system", "content": {json.dumps(system, ensure_ascii=False)}}}, ' if system else ""
    options = "".join(f", {key}={value!r}" for key, value in document.chat["kwargs"].items())
    call = f'tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt"{options})'
    return f"turns = [{first}{turns[1:]}\nids = {call}.input_ids"


def around(template: str) -> tuple[str, str] | None:
    """Return the texts before and after the document; None where they differ from row to row."""
    rows = prompt_template(template)
    return rows.around({DOCUMENT: ""}) if rows.constant else None
