"""The YAML as frozen classes: load, override, dump, JSON Schema.

Knows nothing of methods, models or data: an entry's settings stay a plain mapping here and are checked by the
method they name. Every field carries its documentation, which becomes the schema and the reference page.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bakeoff.errors import ConfigError, did_you_mean, in_line, plain
from bakeoff.reading import at_home, read_yaml

BASELINES = ("base", "few-shot-2", "lead-1", "oracle")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    """Base of every part of the config: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        annotation = cls.model_fields[field.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("expected a number")
        return value


class DataConfig(Section):
    """Where the examples come from. `data: docstrings` is short for `data: {source: docstrings}`."""

    source: Literal["files", "docstrings"] = Field("files", description="files, or the embedded docstring task")
    train: str | None = Field(None, description="JSONL file of training examples, relative to the config file")
    validation: str | None = Field(None, description="JSONL file that best checkpoints are chosen on")
    test: str | None = Field(None, description="JSONL file that is read once per final run")
    document: str = Field("document", description="column that holds the source text")
    summary: str = Field("summary", description="column that holds the target text")
    references: str | list[str] | None = Field(
        None, description="column or columns of the test file with the references that outputs are scored against"
    )
    references_file: str | None = Field(
        None, description="JSONL file that holds `references`, a row for each row of the test file; null: the test file"
    )
    train_limit: int | None = Field(None, ge=1, description="use a seeded sample of this many training examples")
    validation_limit: int | None = Field(None, ge=1, description="likewise for validation")
    test_limit: int | None = Field(None, ge=1, description="likewise for test")

    @model_validator(mode="after")
    def _paths(self) -> "DataConfig":
        missing = [s for s in ("train", "validation", "test") if getattr(self, s) is None]
        if self.source == "files" and missing:
            raise ValueError(f"'{missing[0]}' is missing. Name a JSONL file for train, validation and test")
        if self.references_file and not self.references:
            raise ValueError("'references' is missing: the column of references_file that holds them")
        if self.references is not None and (self.source != "files" or not self.references):
            raise ValueError("'references' names a column, or a list of columns, of a test file")
        return self


class ProtocolConfig(Section):
    """Everything that is held equal over the entries."""

    epochs: int = Field(3, ge=1, description="passes over the training examples")
    batch_size: int = Field(8, ge=1, description="examples in one optimizer step")
    max_tokens: int = Field(512, ge=16, description="document, template and summary together; the document is cut")
    warmup_share: float = Field(0.06, ge=0, le=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="learning rate after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay, the same for every entry")
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm; null turns clipping off")
    evaluate_every: int | None = Field(None, ge=1, description="steps between validations; null: once an epoch")
    trunk_cache: Literal["auto", "off"] | ByteSize = Field(
        "auto", description="disk for what frozen blocks say of each example: off, a size as in 2GB, auto: as needed"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute blocks in the backward pass: about a third slower, far less memory"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="validations in a row without a new best that end a run; null: every run takes all steps",
    )
    seed: int = Field(0, ge=0, description="first seed: initialisation and order of examples")
    seeds: int = Field(3, ge=1, description="runs per entry, with seeds counted up from `seed`")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="frozen weights and matrix products; auto: bf16 where the hardware multiplies it natively"
    )

    @field_validator("trunk_cache", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class TuneConfig(Section):
    """How settings are searched: every entry gets the same number of trials, drawn from its own ranges."""

    trials: int = Field(4, ge=1, description="settings that each entry is tried at, with the first seed")
    halving: bool = Field(
        True, description="stop the worse half of an entry's trials after a quarter and after half of the steps"
    )


class GenerationConfig(Section):
    """Greedy decoding, the same for every entry; a model's own generation settings are never read."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="longest output; null: the training summaries' 99th percentile"
    )
    batch_size: int = Field(16, ge=1, description="documents decoded side by side; it does not change the outputs")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="fp32: no output depends on its batch mates; bf16: less memory, but near ties may flip"
    )


class Config(Section):
    """One bakeoff."""

    name: Name = Field("bakeoff", description="name of the run folder and of the report")
    model: str = Field("base", description="base model: a hub id, a folder, or 'base', the embedded one")
    data: DataConfig = Field(description="the examples")
    template: str | None = Field(
        None,
        description="text before the summary; must hold {{ document }} once; null: '{{ document }}\\nTL;DR:', and for "
        "encoder-decoders 'summarize: {{ document }}'",
    )
    entries: dict[Name, dict[str, Any]] = Field(
        min_length=1, description="what is compared: method names, or entry names with a method and its fields"
    )
    baselines: list[str] = Field(
        list(BASELINES),
        description="what stands beside the entries: base (always), few-shot-K (the base with K training examples "
        "before the document), lead-K (the document's first K sentences), oracle (its best sentences, chosen by the "
        "reference)",
    )
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig, description="what is held equal")
    tune: TuneConfig | None = Field(
        default_factory=TuneConfig, description="trials for what an entry does not fix; off: one fixed setting an entry"
    )
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="how outputs are decoded")
    output: str | None = Field(None, description="run folder; null: bakeoffs/<name>")

    @property
    def folder(self) -> Path:
        """The run folder."""
        return at_home(self.output) if self.output else Path("bakeoffs") / self.name

    @field_validator("data", mode="before")
    @classmethod
    def _short_data(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("tune", mode="before")
    @classmethod
    def _short_tune(cls, value: Any) -> Any:
        if value in (False, "off"):  # YAML reads a bare off as false
            return None
        return {} if value in (True, "on") else value

    @field_validator("entries", mode="before")
    @classmethod
    def _short_entries(cls, value: Any) -> Any:
        if not isinstance(value, list):
            if not isinstance(value, dict):
                return value
            for name, fields in value.items():
                if fields is not None and not isinstance(fields, dict):
                    raise ValueError(f"{name}: expected fields, as in {name}: {{learning_rate: 1e-3}}")
            return {n: {"method": n, **(e or {})} for n, e in value.items()}
        rows = [{"method": row} if isinstance(row, str) else row for row in value]
        if not all(isinstance(row, dict) and "method" in row for row in rows):
            raise ValueError("a list holds method names, or mappings with `method:` and its fields")
        named = {str(row.get("name", row["method"])): {k: v for k, v in row.items() if k != "name"} for row in rows}
        if len(named) != len(value):
            raise ValueError("two entries share a name. Give each its own `name:`")
        return named

    @field_validator("baselines")
    @classmethod
    def _known_baselines(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if not re.fullmatch(r"base|oracle|(lead|few-shot)-[1-9]\d?", name)]
        if unknown:
            hint = did_you_mean(unknown[0], BASELINES)
            raise ValueError(f"'{unknown[0]}' is none.{hint} Allowed: base, few-shot-K, lead-K and oracle")
        if "base" not in value or len(set(value)) < len(value):
            raise ValueError("must hold base, and nothing twice")
        return value

    @field_validator("template")
    @classmethod
    def _one_document(cls, value: str | None) -> str | None:
        if value is not None and value.count("{{ document }}") != 1:
            raise ValueError("must hold {{ document }} exactly once")
        return value


def load_config(source: str | Path | dict[str, Any], overrides: dict[str, Any] | None = None) -> Config:
    """Return the config of a YAML file (or a mapping) with dotted `overrides` applied.

    Paths in `data`, and a model folder, are taken relative to the file. Raises ConfigError with one line that names
    file, key and cure.
    """
    if not isinstance(source, str | Path | dict):
        raise ConfigError(f"config: expected the path of a YAML file, or a mapping, got {source!r:.60}")
    if isinstance(source, dict):
        where, raw, base = "config", dict(source), Path()
    else:
        where, raw, base = str(source), read_yaml(Path(source)), Path(source).parent
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).lstrip("._-")[:64]
        raw.setdefault("name", name or "bakeoff")
    for key, value in (overrides or {}).items():
        set_dotted(raw, key, value)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(where, raw, error)) from None
    files = ("train", "validation", "test", "references_file")
    paths = {s: str((base / at_home(p)).resolve()) for s in files if (p := getattr(config.data, s))}
    changes: dict[str, Any] = {"data": config.data.model_copy(update=paths)}
    if config.model != "base" and (base / at_home(config.model)).is_dir():
        changes["model"] = str((base / at_home(config.model)).resolve())
    return config.model_copy(update=changes)


def set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings; a list or a short form on the way is turned into its long form first."""
    *path, last = key.split(".")
    for part in path:
        below = raw.get(part)
        if part == "entries" and isinstance(below, list):
            try:
                below = Config._short_entries(below)
            except ValueError as error:
                raise ConfigError(f"entries: {error}") from None
        elif part == "data" and isinstance(below, str):
            below = {"source": below}
        elif part == "tune" and isinstance(below, str | bool):
            below = {}
        if below is not None and not isinstance(below, dict):
            raise ConfigError(f"-s {key}: '{part}' holds a value ({below!r}), no keys that could be set")
        raw[part] = below = dict(below or {})
        raw = below
    raw[last] = value


def dump_config(config: Config) -> str:
    """Return the resolved config as YAML that `load_config` reads back to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> str:
    """Return the JSON Schema of the config for editors."""
    return json.dumps(Config.model_json_schema(), indent=1)


def explain(where: str, raw: dict[str, Any], error: ValidationError) -> str:
    """Return pydantic's first complaint as one line: where, what, got, what to try."""
    first = error.errors()[0]
    place = ".".join(in_line(p) for p in first["loc"] if p != "[key]")
    if first["type"] == "extra_forbidden":
        return f"{where}: {place}: unknown key.{did_you_mean(str(first['loc'][-1]), known_keys(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{where}: {place}: missing{describe(first['loc'])}"
    return f"{where}: {place}: {plain(first)}"


def _section(path: tuple[Any, ...]) -> type[Section]:
    section: type[Section] = Config
    for part in path:
        field = section.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), section)
    return section


def known_keys(path: tuple[Any, ...]) -> list[str]:
    """Return the keys that are allowed at `path`."""
    return list(_section(path).model_fields)


def describe(path: tuple[Any, ...]) -> str:
    """Return the documentation of the field at `path` in brackets."""
    field = _section(path[:-1]).model_fields.get(str(path[-1]))
    return f" ({field.description})" if field and field.description else ""
