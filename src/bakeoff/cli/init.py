"""What `bakeoff init` writes: a config for data files, with guessed columns and every option explained."""

import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bakeoff.cli.schema import SCHEMA_FILE
from bakeoff.config.config import Config
from bakeoff.config.loading import explain
from bakeoff.config.names import plain_name
from bakeoff.config.sections import Section
from bakeoff.data.folders import WORDS, words_of
from bakeoff.data.formats import stem_of
from bakeoff.data.proposal import propose
from bakeoff.errors import ConfigError, DataError, in_line
from bakeoff.methods.reference import describe_methods
from bakeoff.scoring.task_guess import task_of

ENTRIES: dict[str, Any] = {"prompt_tuning": {}, "last_layers": {}, "lora": {}}
WIDTH = 110
NEEDS_CHAT = "model: base has no chat template, which conversations need; set model to an instruct base"


@dataclass(frozen=True)
class Draft:
    """The text of a config, and what was guessed, one line per guess."""

    text: str
    guesses: list[str]


class OneLine(yaml.SafeDumper):
    """Writes strings with unprintable characters in quotes, with escapes."""


OneLine.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


def draft(files: Sequence[Path], output: Path, model: str = "base") -> Draft:
    """Return a config for data files, to be written to `output`; without files, for the docstring task.

    Raises ConfigError or DataError if the splits are unclear, or a file cannot be read.
    """
    if not files:
        data: dict[str, Any] = {"source": "docstrings"}
        task: dict[str, Any] = {}
        reasons = ["no data file was given: the config uses the docstring task of the demo"]
        about = "the docstring task"
    else:
        proposed = propose(files)
        base = output.parent.resolve()
        data = {k: os.path.relpath(v, base) if isinstance(v, Path) else v for k, v in proposed.data.items()}
        task, why = task_of(proposed.splits)
        task |= {"target": proposed.target} if proposed.target else {}
        reasons = [*proposed.reasons, *why]
        about = ", ".join(in_line(str(file)) for file in files)
    raw = {"name": name_of(files), "model": model, "data": data, "entries": ENTRIES, **task}
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:  # of a name that no config may hold
        raise DataError(explain(about, raw, error)) from None
    if config.data.conversation and model == "base":
        reasons.append(NEEDS_CHAT)
    own = in_line(shlex.quote(str(output)))
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        f"# A bakeoff over {about}. Next: bakeoff plan {own}, then: bakeoff run {own}",
        *(f"# {in_line(line)}" for line in reasons),
        "",
        *section_lines(config, {"entries": entry_lines()}),
    ]
    return Draft("\n".join(lines) + "\n", reasons)


def name_of(files: Sequence[Path]) -> str:
    """Return the name for a bakeoff: that of its file, or of the folder if the file is named after a split."""
    path = files[0].resolve() if files else Path("docstrings")
    stem = stem_of(path)
    if len(files) > 1 or (files and not path.is_dir() and {*words_of(stem)} <= WORDS.keys()):
        stem = path.parent.name
    return plain_name(stem, 64) or "bakeoff"


def section_lines(section: Section, own: dict[str, list[str]] | None = None, indent: str = "") -> list[str]:
    """Return a section as YAML, each field below its documentation; `own` has lines for some fields."""
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        lines += textwrap.wrap(
            field.description or "", WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   "
        )
        if own and name in own:
            lines += [f"{indent}{name}:", *own[name]]
        elif isinstance(value, Section):
            lines += [f"{indent}{name}:", *section_lines(value, None, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {inline(value)}")
        lines += [""] if not indent else []
    return lines


def inline(value: Any) -> str:
    """Return a value as YAML on one line; line breaks become escapes."""
    text = yaml.dump(value, Dumper=OneLine, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def entry_lines() -> list[str]:
    """Return the entries of a new config, and the other methods as comments."""
    others = [line for line in describe_methods().splitlines() if line.partition(" ")[0] not in ENTRIES]
    return [
        *(f"  {name}: {{}}" for name in ENTRIES),
        "  # The fields and defaults of a method: bakeoff methods NAME. An entry with a name of your own:",
        "  #   big_lora: {method: lora, r: 128}",
        *(f"  # {line}" for line in others),
    ]


def write_new(path: Path, text: str) -> None:
    """Write a new file; raise ConfigError if it exists, or cannot be written completely."""
    made = False
    try:
        with path.open("x", encoding="utf-8") as file:
            made = True
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: exists, and is never overwritten. Try: -o OTHER{path.suffix}") from None
    except OSError as error:
        if made:  # a part of it, on a full disk, would keep the next try from writing it
            path.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({error.strerror}). Try: -o OTHER.yaml") from None
