"""The section `data` of the YAML: where examples come from, and which columns they are in."""

import codecs
from difflib import get_close_matches
from encodings.aliases import aliases
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bakeoff.config.sections import Section
from bakeoff.errors import did_you_mean

OF_A_SOURCE = ("config", "revision")  # fields that mean nothing if files are named
# Which columns hold a conversation, by the first of each form.
CONVERSATIONS: dict[str, tuple[str, ...]] = {
    "messages": (), "conversations": (), "prompt": ("completion",), "instruction": ("output", "input")
}  # fmt: skip
OF_FILES = (
    "train", "validation", "test", "encoding", "document", "summary", "id", "metric_columns", "validation_share",
    "test_share", "unusable", *CONVERSATIONS, "completion", "output", "input",
)  # fmt: skip


class DataConfig(Section):
    """Where the examples come from. `data: docstrings` is short for `data: {source: docstrings}`."""

    source: str = Field(
        "files",
        description="where the examples come from: files (named by train, validation and test), the path of a folder "
        "with one file or folder per split, of a workbook (.xlsx) or a database (SQLite, DuckDB) with a sheet or table "
        "per split, the id of a hub dataset, or docstrings (the task of the demo)",
    )
    config: str | None = Field(
        None,
        description="config of a hub dataset that has several; for a cloned dataset, the folder of that config",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub dataset; null: main")
    train: str | None = Field(
        None,
        description="training examples: a file (JSONL, JSON, CSV, TSV, Parquet, Arrow, Excel, SQLite, DuckDB; text "
        "also compressed, .gz, .bz2 or .zst) or a folder of such files, relative to the config file; in `source`, the "
        "name of the split, sheet or table, or a query that starts with SELECT",
    )
    validation: str | None = Field(
        None,
        description="validation examples, which choose the best checkpoint: a file, folder, name or query like "
        "`train`; null: a share of the training examples",
    )
    test: str | None = Field(
        None,
        description="test examples, which each final run reads once: a file, folder, name or query like `train`; null: "
        "a share of the training examples",
    )
    validation_share: float = Field(
        0.1, gt=0, lt=0.5,
        description="share of the training examples used for validation if `validation` is null; chosen by the hash of "
        "the group or document",
    )  # fmt: skip
    test_share: float = Field(
        0.1, gt=0, lt=0.5,
        description="share of the training examples used for the test if `test` is null; chosen by the hash of the "
        "group or document",
    )  # fmt: skip
    encoding: str = Field(
        "utf-8", description="encoding of text files, for example cp1252 (Windows, Western Europe), utf-16 or shift_jis"
    )
    document: str = Field("document", description="column with the source text")
    summary: str = Field("summary", description="column with the target text")
    messages: str | None = Field(
        None,
        description="column with a conversation, in place of document and summary: a list of turns, each with role "
        "(system, user, assistant) and content",
    )
    conversations: str | None = Field(
        None,
        description="column with a conversation in ShareGPT's form, in place of document and summary: a list of turns, "
        "each with from (system, human, gpt) and value",
    )
    prompt: str | None = Field(
        None,
        description="column with all turns before the last answer (a list of turns, or the user's text alone), in "
        "place of document and summary; needs `completion`",
    )
    completion: str | None = Field(
        None, description="column with the answer to `prompt`: a text, or a list with one assistant's turn"
    )
    instruction: str | None = Field(
        None,
        description="column with the instruction in Alpaca's form, in place of document and summary; needs `output`",
    )
    input: str | None = Field(
        None,
        description="column with the text that `instruction` is about; it follows the instruction in the user's turn, "
        "and may be empty",
    )
    output: str | None = Field(None, description="column with the answer to `instruction`")
    id: str | None = Field(None, description="column with a unique id per example; null: the line number is the id")
    group: str | None = Field(
        None,
        description="column that says which rows depend on each other (rows of one author or thread): a split that "
        "bakeoff makes shares no group with another, and confidence intervals are over groups; null: over documents",
    )
    references: str | list[str] | None = Field(
        None,
        description="column or columns with the references that outputs are scored against, in the test file or in "
        "`references_file`; null: the target is the only reference",
    )
    references_file: str | None = Field(
        None,
        description="file with the columns of `references`, one row per row of the test file; null: the test file",
    )
    metric_columns: list[str] = Field(
        [],
        description="columns of the test split that metrics in Python get in `row`, besides id, document, summary and "
        "group",
    )
    unusable: Literal["stop", "drop"] = Field(
        "stop",
        description="what to do with rows that cannot be used (a text is missing or empty, a line is not JSON): stop "
        "with an error, or drop them and report it",
    )
    long_targets: Literal["cut", "drop", "stop"] = Field(
        "cut",
        description="what to do with targets that are so long that `protocol.max_tokens` has no room for a document "
        "beside them: cut them to the longest output, drop their examples, or stop with an error",
    )
    shared_documents: Literal["keep", "drop"] = Field(
        "keep",
        description="what to do with training documents that are also in validation or test, or nearly so: keep or "
        "drop them",
    )
    train_limit: int | None = Field(
        None, ge=1, description="use a seeded sample of this many training examples; null: all"
    )
    validation_limit: int | None = Field(
        None, ge=1, description="use a seeded sample of this many validation examples; null: all"
    )
    test_limit: int | None = Field(None, ge=1, description="use a seeded sample of this many test examples; null: all")

    @property
    def of_files(self) -> bool:
        """Whether train, validation and test are paths."""
        return self.source == "files"

    @property
    def conversation(self) -> str | None:
        """The form in which rows hold conversations, one of CONVERSATIONS; None if they hold documents."""
        return next((form for form in CONVERSATIONS if getattr(self, form) is not None), None)

    @model_validator(mode="after")
    def _one_form(self) -> "DataConfig":
        forms = [form for form in CONVERSATIONS if getattr(self, form) is not None]
        if len(forms) > 1:
            raise ValueError(f"'{forms[0]}' and '{forms[1]}' are both set. A row has one conversation: remove one")
        for form, others in CONVERSATIONS.items():
            there = [name for name in others if getattr(self, name) is not None]
            if there and form not in forms:
                raise ValueError(f"'{there[0]}' is set, but '{form}' is missing. Set both, or neither")
            if form in forms and others and others[0] not in there:
                raise ValueError(f"'{others[0]}' is missing. Name the column with the answer")
        for name in ("document", "summary") if forms else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' and '{forms[0]}' are both set. A row has a document or a conversation")
        return self

    @field_validator("source")
    @classmethod
    def _no_slip(cls, value: str) -> str:
        known = ("files", "docstrings")
        if value not in known and get_close_matches(value, known, cutoff=0.8):
            raise ValueError(f"unknown source '{value}'.{did_you_mean(value, known)}")
        return value

    @field_validator("encoding")
    @classmethod
    def _of_text(cls, value: str) -> str:
        try:
            codecs.getincrementaldecoder(value)
            b"a".decode(value, "replace")
        except LookupError:  # also where bytes are decoded to something else than text
            known = sorted({name.replace("_", "-") for name in aliases.values() if not name.endswith("_codec")})
            raise ValueError(f"unknown encoding '{value:.60}'.{did_you_mean(value, known)}") from None
        except UnicodeError:
            raise ValueError(f"'{value:.60}' is not an encoding of text files. For example utf-8 or cp1252") from None
        return codecs.lookup(value).name

    @model_validator(mode="after")
    def _paths(self) -> "DataConfig":
        if self.of_files and self.train is None:
            raise ValueError(
                "'train' is missing. Name a file, or set `source` to a folder, a hub dataset or docstrings"
            )
        unused = {"files": OF_A_SOURCE, "docstrings": (*OF_A_SOURCE, *OF_FILES)}.get(self.source, ())
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                cure = "Set source: files" if name in OF_FILES else "Set source to a hub dataset"
                raise ValueError(f"'{name}' is set, but source: {self.source} does not use it. {cure}, or remove it")
        for split in ("validation", "test"):
            share = f"{split}_share"
            if (
                self.of_files
                and getattr(self, split)
                and getattr(self, share) != type(self).model_fields[share].default
            ):
                raise ValueError(f"'{share}' and a {split} file are both set. Remove one of them")
        if self.references_file and not self.references:
            raise ValueError("'references' is missing. Name the column of references_file that holds the references")
        if self.references is not None and (self.source == "docstrings" or not self.references):
            raise ValueError("'references' must be a column, or a list of columns, of the test split")
        if self.references_file and not (self.of_files and self.test):
            raise ValueError(
                "'references_file' needs a `test` file, which is missing. Set `test`, or remove references_file"
            )
        return self
