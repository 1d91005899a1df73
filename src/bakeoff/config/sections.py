"""The sections of the YAML: data, protocol, tuning, generation. Each field's documentation is the schema's too."""

from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from bakeoff.errors import did_you_mean


def encodable(text: str) -> bool:
    """Return whether a text is whole in UTF-8: half a surrogate pair, which YAML's escapes can make, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return a field's type, or the members of a union: what a list holds is no kind of the list."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


class Section(BaseModel):
    """Base of every part of the config: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_slips(cls, value: Any, field: ValidationInfo) -> Any:
        kinds = kinds_of(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, bool) and (int in kinds or float in kinds) and bool not in kinds:
            raise ValueError("expected a number")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a null character, which no path or text may")
        return value


@dataclass(frozen=True)
class Pin:
    """Which version of a hub model is meant (None: its main branch), and whether code that comes with it may run."""

    revision: str | None = None
    remote_code: bool = False


LATEST = Pin()


OF_A_SOURCE = ("config", "revision")  # fields that mean nothing beside files
OF_FILES = ("train", "validation", "test", "document", "summary", "id", "validation_share", "test_share", "unusable")


class DataConfig(Section):
    """Where the examples come from. `data: docstrings` is short for `data: {source: docstrings}`."""

    source: str = Field(
        "files", description="files; a folder with files for the splits; a hub dataset's id; or docstrings, the demo's"
    )
    config: str | None = Field(
        None, description="a hub dataset's config, where it has several, or its folder in a clone"
    )
    revision: str | None = Field(None, description="a hub dataset's branch, tag or commit")
    train: str | None = Field(
        None,
        description="file of training examples (JSONL, JSON, CSV, TSV, Parquet, Arrow) or a folder of such files, "
        "relative to the config file; of a hub dataset: the split's name",
    )
    validation: str | None = Field(
        None, description="likewise: what best checkpoints are chosen on; null: a share of the training examples"
    )
    test: str | None = Field(
        None, description="likewise: what is read once per final run; null: a share of the training examples"
    )
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="that share, by group or by the documents' hashes")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="likewise for test")
    document: str = Field("document", description="column that holds the source text")
    summary: str = Field("summary", description="column that holds the target text")
    id: str | None = Field(None, description="column that names each example; null: its line")
    group: str | None = Field(
        None,
        description="column with what makes rows depend on each other (an author, a thread): a group is never split, "
        "and intervals are over groups; null: over documents",
    )
    references: str | list[str] | None = Field(
        None, description="column or columns of the test file with the references that outputs are scored against"
    )
    references_file: str | None = Field(
        None, description="file that holds `references`, a row for each row of the test file; null: the test file"
    )
    unusable: Literal["stop", "drop"] = Field(
        "stop", description="rows without a text where one is needed: refuse the data, or leave them out and say so"
    )
    shared_documents: Literal["keep", "drop"] = Field(
        "keep", description="training documents that stand, or nearly stand, in validation or test: keep or drop them"
    )
    train_limit: int | None = Field(None, ge=1, description="use a seeded sample of this many training examples")
    validation_limit: int | None = Field(None, ge=1, description="likewise for validation")
    test_limit: int | None = Field(None, ge=1, description="likewise for test")

    @property
    def of_files(self) -> bool:
        """Whether train, validation and test are paths."""
        return self.source == "files"

    @field_validator("source")
    @classmethod
    def _no_slip(cls, value: str) -> str:
        known = ("files", "docstrings")
        if value not in known and get_close_matches(value, known, cutoff=0.8):
            raise ValueError(f"'{value}' is none.{did_you_mean(value, known)}")
        return value

    @model_validator(mode="after")
    def _paths(self) -> "DataConfig":
        if self.of_files and self.train is None:
            raise ValueError("'train' is missing. Name a file, or a `source`: a folder, a hub dataset or docstrings")
        unused = {"files": OF_A_SOURCE, "docstrings": (*OF_A_SOURCE, *OF_FILES)}.get(self.source, ())
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                cure = "Set source: files" if name in OF_FILES else "They are a hub dataset's"
                raise ValueError(f"'{name}' is set, which source: {self.source} has no use for. {cure}, or remove it")
        for split in ("validation", "test"):
            share = f"{split}_share"
            if (
                self.of_files
                and getattr(self, split)
                and getattr(self, share) != type(self).model_fields[share].default
            ):
                raise ValueError(f"'{share}' is set, and there is a {split} file. Remove one of them")
        if self.references_file and not self.references:
            raise ValueError("'references' is missing: the column of references_file that holds them")
        if self.references is not None and (self.source == "docstrings" or not self.references):
            raise ValueError("'references' names a column, or a list of columns, of the test split")
        if self.references_file and not (self.of_files and self.test):
            raise ValueError("'references_file' stands beside a `test` file, and there is none")
        return self


class ProtocolConfig(Section):
    """Everything that is held equal over the entries."""

    epochs: int = Field(3, ge=1, le=100_000, description="passes over the training examples")
    batch_size: int = Field(8, ge=1, le=100_000, description="examples in one optimizer step")
    max_tokens: int = Field(
        512, ge=16, le=10_000_000, description="document, template and summary together; the document is cut"
    )
    warmup_share: float = Field(0.06, ge=0, le=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="learning rate after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay, the same for every entry")
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm; null turns clipping off")
    evaluate_every: int | None = Field(None, ge=1, description="steps between validations; null: once an epoch")
    trunk_cache: Literal["auto", "off"] | ByteSize = Field(
        "auto", description="disk for frozen blocks' outputs: off, a size for all of them as in 2GB, auto: as needed"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute blocks in the backward pass: about a third slower, far less memory"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="validations in a row without a new best that end a run; null: every run takes all steps",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="first seed: initialisation and order of examples")
    seeds: int = Field(3, ge=1, le=1000, description="runs per entry, with seeds counted up from `seed`")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="frozen weights and matrix products; auto: bf16 where the hardware multiplies it natively"
    )

    @field_validator("trunk_cache", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class TuneConfig(Section):
    """How settings are searched: every entry gets the same number of trials, drawn from its own ranges."""

    trials: int = Field(4, ge=1, le=1000, description="settings that each entry is tried at, with the first seed")
    halving: bool = Field(
        True, description="stop the worse half of an entry's trials after a quarter and after half of the steps"
    )


class SafetyConfig(Section):
    """What runs survive, and what they may take. Nothing here changes a result."""

    checkpoint_seconds: float = Field(
        60, gt=0, description="seconds of training between checkpoints, which every validation writes too"
    )
    checkpoint_budget: Literal["auto"] | ByteSize = Field(
        "auto", description="disk for one run's last two checkpoints: a size as in 4GB; auto: a quarter of what is free"
    )
    stall_seconds: float = Field(
        1800, gt=0, description="a run that shows no progress for so long has failed, and the next one starts"
    )
    memory_limit: ByteSize | None = Field(
        None, description="memory that a run's process may take, as in 8GB; null: as much as there is (Linux)"
    )


class GenerationConfig(Section):
    """Greedy decoding, the same for every entry; a model's own generation settings are never read."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="longest output; null: the training summaries' 99th percentile (half the room if too long)",
    )
    batch_size: int | None = Field(
        None, ge=1, le=100_000,
        description="documents decoded side by side, which does not change the outputs; null: as many as keep their "
        "keys and values in 1 GiB, at most 64",
    )  # fmt: skip
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="fp32: no output depends on its batch mates; bf16: less memory, but near ties may flip"
    )
