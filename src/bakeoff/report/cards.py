"""Model cards: the README.md beside every saved adapter, made from the record, as the hub wants them.

The last line of a card is a hash of the card, so that an edited card is recognised and not replaced.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from bakeoff import __version__
from bakeoff.analysis.table import escape_markdown
from bakeoff.methods import method_class, method_names
from bakeoff.store.checksums import read_mapping, read_whole
from bakeoff.store.files import write_text
from bakeoff.store.records import Quantize, RunResult
from bakeoff.store.results_document import ResultsDocument, interval_of
from bakeoff.store.run_folder import Folder, RunFolder

DIGITS = 3
# What holds whatever model and data: the code to use an adapter with.
WITH_PEFT = """\
```python
from peft import PeftModel
from transformers import {classes}

{packed}base = {family}.from_pretrained({base}{how})
tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```"""
# How transformers stores the base as the run had it.
PACKED = {
    "nf4": 'BitsAndBytesConfig(\n    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    'bnb_4bit_compute_dtype="{dtype}"\n)',
    "int8": "BitsAndBytesConfig(load_in_8bit=True)  # which rounds inputs to eight bits, too: bakeoff did not",
}
WITH_BAKEOFF = """\
```python
import bakeoff

summarizer = bakeoff.load_results({folder}).entry("{entry}").load()
print(summarizer.generate(["A long document ..."]))
```"""

AS_WRITTEN = "<!-- Written by bakeoff. Once edited, this card is never written again. sha256 {} -->\n"


def write_cards(folder: Folder, results: ResultsDocument) -> list[Path]:
    """Write the card of every saved adapter whose run is done, except edited cards; return the written ones."""
    written, plan = [], folder.plan()
    for name, row in results.entries.items():
        for run_id in row.runs:
            files = folder.run(run_id)
            record = folder.result(run_id, plan)
            if (
                record
                and record.status == "done"
                and files.adapter.is_dir()
                and not edited(files.adapter / "README.md")
            ):
                write_text(files.adapter / "README.md", signed(card(results, name, files, record)))
                written.append(files.adapter / "README.md")
    return written


def signed(text: str) -> str:
    """Return a card with its hash as its last line."""
    return f"{text}\n{AS_WRITTEN.format(hashlib.sha256(text.encode()).hexdigest())}"


def edited(file: Path) -> bool:
    """Return whether the card exists and was edited."""
    try:
        text = read_whole(file).decode()
    except FileNotFoundError:
        return False
    except UnicodeDecodeError:
        return True
    return signed(text.rpartition("\n<!-- ")[0]) != text


def card(results: ResultsDocument, name: str, files: RunFolder, record: RunResult) -> str:
    """Return the card of one run's adapter: front matter, then Markdown."""
    peft = read_mapping(files.adapter / "adapter_config.json")  # none where it is in a format of ours
    parts = [
        f"---\n{front_matter(results, name, record, 'peft' if peft else 'bakeoff')}\n---",
        f"# {escape_markdown(name)}: {escape_markdown(base_name(results))} adapted by {record.run.method}",
        f"Trained by bakeoff {__version__} as entry `{name}` of the bakeoff `{results.name}`, seed {record.run.seed}.",
        scores(results, name, record),
        escape_markdown(results.verdict.text),
        "## How to use it",
        usage(results, name, files, peft if plain_base(record.run.method) else {}, record.run.quantize),
        *prompt(results),
        "## How it was made",
        facts(results, record),
    ]
    notes = [f"- check `{check}` failed: {escape_markdown(note)}" for check, note in record.check_notes.items()]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def front_matter(results: ResultsDocument, name: str, record: RunResult, library: str) -> str:
    """Return the card's YAML, in which the hub finds base, tags, scores, and the `library` that loads the files."""
    from huggingface_hub import EvalResult, ModelCardData

    hub_id = results.model.name if on_hub(results) else None
    task = "summarization" if results.primary.startswith("rouge") else "text-generation"
    source = published(results.data.source)
    relation = "finetune" if library == "transformers" else "adapter"
    evaluated = [
        EvalResult(
            task_type=task, dataset_type=source, dataset_name=results.name, dataset_split="test",
            metric_type=hub_metric(metric), metric_name=heading, metric_value=round(record.metrics[metric], 6),
        )
        for metric, heading in measured(results, record).items()
    ]  # fmt: skip
    data = ModelCardData(
        base_model=hub_id,
        library_name=library,
        pipeline_tag=task,
        tags=["bakeoff", record.run.method, *([f"base_model:{relation}:{hub_id}"] if hub_id else [])],
        metrics=sorted({hub_metric(metric) for metric in measured(results, record)} - {"loss"}),
        model_name=f"{results.name} {name}",
        eval_results=evaluated,
    )
    return data.to_yaml()


def measured(results: ResultsDocument, record: RunResult) -> dict[str, str]:
    """Return the headings of a run's test scores, by metric."""
    headings = {"test/loss": "test loss"} | {f"test/{m.name}": m.heading for m in results.metrics}
    return {metric: heading for metric, heading in headings.items() if metric in record.metrics}


def hub_metric(metric: str) -> str:
    """Return the hub's name for a metric."""
    name = metric.removeprefix("test/")
    known = {"rouge": "rouge", "bleu": "bleu", "token_f1": "f1", "exact_match": "exact_match"}
    return next((word for start, word in known.items() if name.startswith(start)), name.removesuffix("_corpus"))


def on_hub(results: ResultsDocument) -> bool:
    """Return whether the base has a name that others can use: it is not the embedded base or a folder."""
    name = results.model.name
    return name != "base" and not Path(name).is_absolute()


def base_name(results: ResultsDocument) -> str:
    """Return the base's name for a card."""
    name = results.model.name
    return "bakeoff's embedded base" if name == "base" else published(name)


def published(name: str) -> str:
    """Return a hub name unchanged, but only the last part of a folder: the rest says much about this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def run_folder(files: RunFolder) -> str:
    """Return the path of a run's bakeoff for a card: only its name, unless it is in the usual place."""
    *_, above, name = files.path.resolve().parent.parent.parts
    return f"bakeoffs/{name}" if above == "bakeoffs" else f"path/of/{name}"


def scores(results: ResultsDocument, name: str, record: RunResult) -> str:
    """Return a table of test scores: this adapter's, its entry's over all seeds, and the untouched base's."""
    entry = results.entries[name].metrics
    base = results.baselines["base"].metrics if "base" in results.baselines else {}
    lines = ["| test split | this adapter | entry, mean of seeds (95 %) | base |", "|---|---:|---:|---:|"]
    for metric, heading in measured(results, record).items():
        mean, untouched = entry.get(metric), base.get(metric)
        ends = interval_of(mean) if mean else None
        span = f" ({ends[0]:.{DIGITS}f} to {ends[1]:.{DIGITS}f})" if ends else ""
        cells = (
            shown(record.metrics[metric]),
            f"{shown(mean.mean if mean else None)}{span}",
            shown(untouched.mean if untouched else None),
        )
        lines.append(f"| {escape_markdown(heading)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{escape_markdown(results.score_signature)}"


def shown(value: float | None) -> str:
    """Return a number as text, or a text that says that there is none."""
    return "not measured" if value is None else f"{value:.{DIGITS}f}"


def plain_base(method: str) -> bool:
    """Return whether a method's adapters fit the base as it is loaded."""
    return method not in method_names() or method_class(method).keeps_base


def usage(
    results: ResultsDocument, name: str, files: RunFolder, peft: dict[str, Any], quantize: Quantize = "none"
) -> str:
    """Return the code that loads the adapter; `peft` is its configuration, empty if PEFT alone cannot load it."""
    own = WITH_BAKEOFF.format(folder=json.dumps(run_folder(files)), entry=name)
    if not peft:
        return own
    family = "AutoModelForSeq2SeqLM" if peft.get("task_type") == "SEQ_2_SEQ_LM" else "AutoModelForCausalLM"
    base = json.dumps(results.model.name if on_hub(results) else "path/of/the/base")
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[results.precision]
    code = WITH_PEFT.format(
        family=family,
        base=base,
        classes=", ".join([family, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantize in PACKED else [])]),
        packed=f"packed = {PACKED[quantize].format(dtype=dtype)}\n" if quantize in PACKED else "",
        how=", quantization_config=packed" if quantize in PACKED else "",
    )
    return f"{code}\n\nOr as in the bakeoff's own evaluation:\n\n{own}"


def prompt(results: ResultsDocument) -> list[str]:
    """Return what comes before an output: a text, or turns that the base's chat template renders."""
    if results.chat is None:
        return ["The text before the output, with the document in its place:", fenced(results.template)]
    options = ["turns", "add_generation_prompt=True", *(f"{k}={v!r}" for k, v in results.chat["kwargs"].items())]
    code = f"`tokenizer.apply_chat_template({', '.join(options)})` of the base's tokenizer"
    if results.chat["turns"]:
        return [f"The prompt is {code}, where `turns` are the conversation up to the last question."]
    system = [{"role": "system", "content": results.chat["system"]}] if results.chat["system"] else []
    turns = [*system, {"role": "user", "content": results.template}]
    return [f"The prompt is {code}, with these turns:", fenced(json.dumps(turns, indent=1, ensure_ascii=False))]


def facts(results: ResultsDocument, record: RunResult) -> str:
    """Return settings, data, costs and environment as a list."""
    environment, protocol = results.environment, results.protocol
    settings = ", ".join(f"{key} {value}" for key, value in record.run.settings.items())
    splits = ", ".join(f"{split} {row.examples:,}" for split, row in results.data.splits.named())
    model, commit = results.model, results.model.revision
    trained, total = record.trainable_parameters or 0, record.total_parameters or 1
    lines = {
        "settings": settings,
        "trainable parameters": f"{trained:,} of {total:,} ({100 * trained / total:.4f} %)",
        "steps": f"{record.steps} of {protocol['batch_size']} examples; the best checkpoint by validation loss is of "
        f"step {record.best_step}",
        "examples": f"{splits}; content {results.data.identity}",
        "base": f"{base_name(results)}, {f'commit {commit}, ' if commit else ''}content {model.identity}",
        "precision": results.precision,
        "base stored": record.run.quantize if record.run.quantize in PACKED else "as in its files",
        "made": ", ".join(f"{k} {environment[k]}" for k in ("date", "torch", "transformers", "peft", "processor", "gpu")
                          if environment.get(k)),
    }  # fmt: skip
    return "\n".join(f"- {key}: {escape_markdown(value)}" for key, value in lines.items())


def fenced(text: str) -> str:
    """Return text as a block of code that its own content cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
