"""The YAML as frozen classes.

This module knows no method, model or data: an entry's settings stay a plain mapping here and are checked by the method
that they name. The description of each field also becomes the schema and the reference page.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bakeoff.config.chat import USER, Chat, ChatConfig
from bakeoff.config.data import DataConfig
from bakeoff.config.machine import JudgeConfig, MachineConfig, PriceConfig, SafetyConfig
from bakeoff.config.names import BASELINES, INSTRUCTION, MAJORITY, checked_baselines, checked_labels, checked_metrics
from bakeoff.config.sections import Pin, ProtocolConfig, Section
from bakeoff.config.stages import GenerationConfig, TuneConfig
from bakeoff.config.templates import TemplateError, prompt_template, target_template
from bakeoff.store.paths import at_home

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Config(Section):
    """A whole bakeoff: what a config file describes."""

    name: Name = Field(
        "bakeoff",
        description="name of this bakeoff, of its run folder and of its report; if it is missing, the name of the "
        "config file",
    )
    model: str = Field(
        "base", description="base model: a hub id, a model folder, or base (the small model that comes with bakeoff)"
    )
    revision: str | None = Field(
        None,
        min_length=1,
        description="branch, tag or commit of a hub model; null: main. A bakeoff that resumes keeps the commit that it "
        "started with",
    )
    trust_remote_code: str | None = Field(
        None,
        description="name of the model again, to let the Python code that comes with this model run on this machine; "
        "null: no such code is run",
    )
    data: DataConfig = Field(description="where the examples come from")
    template: str | None = Field(
        None,
        description="prompt that comes before the target: a Jinja template over the columns of a row; it must contain "
        "{{ document }} exactly once, which is the only part that is cut; null: '{{ document }}\\nTL;DR:', for "
        "encoder-decoders 'summarize: {{ document }}'; for a base with a chat template, see `chat`",
    )
    chat: Chat = Field(
        None,
        description="how the base's own chat template is used; null: as by default, if the base has one and "
        "`template` is not set; off: never",
    )
    target: str | None = Field(
        None,
        description="text that the model learns to write, called the target: a Jinja template over the columns of a "
        "row; null: {{ summary }}",
    )
    entries: dict[Name, dict[str, Any]] = Field(
        min_length=1,
        description="what is compared: a list of method names, or a mapping from names of your own to a method, its "
        "fields and, if it differs from the protocol's, `quantize`; a number can be a range to search, for example "
        "{low: 4, high: 64}",
    )
    baselines: list[str] = Field(
        list(BASELINES),
        description="what the entries are compared with: base (the untouched base; required), few-shot-K (the base "
        "with K training examples before the document), nearest-K (with the K training examples whose documents are "
        "most like it, by BM25), many-shot (with as many as the context takes), instruction (with a text before the "
        "document that a search on validation loss has found), lead-K (the first K sentences of the document), oracle "
        "(the sentences of the document that are closest to the reference), majority (the most frequent label of the "
        "training targets, for labels)",
    )
    instructions: list[Annotated[str, Field(min_length=1, max_length=1000)]] | None = Field(
        None,
        min_length=1,
        description="texts that the search of the baseline `instruction` starts from; null: a few for any task",
    )
    metrics: list[str] = Field(
        ["rouge"],
        min_length=1,
        description="metrics that score the outputs: rouge, rouge_unicode (any script), exact_match, token_f1, "
        "exact_match_squad and token_f1_squad (SQuAD's rule), chrf, bleu, bleu_zh, bleu_ja_mecab, bleu_ko_mecab, "
        "bleu_intl, bleu_char (other tokenizers), accuracy (of labels, with macro F1), json (fields of JSON), "
        "bertscore=MODEL (similar meaning, by the states of a model, a folder or a name on the hub), "
        "consistency=MODEL (whether the document entails the output, by a model of natural language inference), or a "
        "Python function (output, references) -> number, named as module:function or file.py:function; its code is "
        "run, and a higher number must be better",
    )
    primary: str | None = Field(
        None,
        description="score that ranks the entries, for example rougeL, bleu or the name of a function; null: the score "
        "of the first metric",
    )
    labels: list[str] | None = Field(
        None,
        description="the texts that targets can be in a classification, in the order of the report; any other target "
        "stops the plan; null: accuracy takes those of the test targets",
    )
    protocol: ProtocolConfig = Field(
        default_factory=ProtocolConfig, description="settings that are the same for every entry"
    )
    tune: TuneConfig | None = Field(
        default_factory=TuneConfig,
        description="how learning rates that an entry does not fix, and ranges, are searched; off: no search: an entry "
        "without a learning rate has its method's default",
    )
    generation: GenerationConfig = Field(default_factory=GenerationConfig, description="how outputs are decoded")
    machine: MachineConfig = Field(default_factory=MachineConfig, description="what runs use of this machine")
    price: PriceConfig | None = Field(
        None, description="prices per hour, for example {gpu_hour: 2.5}; the table then also has costs in money"
    )
    judge: JudgeConfig | None = Field(
        None, description="a judge model that `bakeoff judge` asks which outputs are better; null: none"
    )
    safety: SafetyConfig = Field(default_factory=SafetyConfig, description="checkpoints and limits of runs")
    output: str | None = Field(None, description="folder of the results; null: bakeoffs/<name>")
    trackers: list[Literal["tensorboard", "mlflow", "wandb", "trackio"]] = Field(
        [], description="trackers that also receive curves and scores; each needs pip install 'bakeoff[NAME]'"
    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return at_home(self.output) if self.output else Path("bakeoffs") / self.name

    @property
    def prompt(self) -> str | None:
        """The template of the prompt, or of the user's turn; None: the usual one."""
        if not isinstance(self.chat, ChatConfig):
            return self.template
        return None if self.data.conversation and self.chat.user == USER else self.chat.user

    @property
    def pin(self) -> Pin:
        """Which version of the model is meant, and whether its own code may run."""
        return Pin(self.revision, self.trust_remote_code is not None)

    @field_validator("trust_remote_code")
    @classmethod
    def _one_model(cls, value: str | None, fields: ValidationInfo) -> str | None:
        if value is not None and value != fields.data.get("model"):
            raise ValueError(f"must be the name of the model ({fields.data.get('model')}), whose code you have read")
        return value

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

    @field_validator("chat", mode="before")
    @classmethod
    def _short_chat(cls, value: Any) -> Any:
        if value in (False, "off"):  # YAML reads a bare off as false
            return "off"
        if not isinstance(value, dict | ChatConfig | None):
            raise ValueError("expected off, or a mapping of system, user, kwargs and date")
        return value

    @field_validator("chat")
    @classmethod
    def _one_prompt(cls, value: Chat, fields: ValidationInfo) -> Chat:
        if isinstance(value, ChatConfig) and fields.data.get("template") is not None:
            raise ValueError("'template' is set, too, which is for plain text. Remove it, or write it as chat.user")
        return value

    @model_validator(mode="after")
    def _turns_of_their_own(self) -> "Config":
        if self.data.conversation:
            user = self.chat.user != USER if isinstance(self.chat, ChatConfig) else False
            there = {
                "template": self.template,
                "target": self.target,
                "chat.user": user,
                "chat: off": self.chat == "off",
            }
            for key, value in there.items():
                if value:
                    raise ValueError(
                        f"'{key}' and data.{self.data.conversation} are both set. Conversations have turns of their "
                        f"own, which the base's chat template renders. Remove one of the two"
                    )
        return self

    @field_validator("entries", mode="before")
    @classmethod
    def _short_entries(cls, value: Any) -> Any:
        if not isinstance(value, list):
            if not isinstance(value, dict):
                raise ValueError("expected a list of methods, as in [lora], or names with their fields")
            for name, fields in value.items():
                if fields is not None and not isinstance(fields, dict):
                    raise ValueError(f"{name}: expected fields, for example {name}: {{learning_rate: 1e-3}}")
            return {n: {"method": n, **(e or {})} for n, e in value.items()}
        rows = [{"method": row} if isinstance(row, str) else row for row in value]
        if not all(isinstance(row, dict) and "method" in row for row in rows):
            raise ValueError("each item of the list must be a method name, or a mapping with `method:` and its fields")
        named = {str(row.get("name", row["method"])): {k: v for k, v in row.items() if k != "name"} for row in rows}
        if len(named) != len(value):
            raise ValueError(
                "two entries have the same name. Give each its own, for example `- {name: big, method: lora, r: 64}`"
            )
        return named

    @field_validator("baselines")
    @classmethod
    def _known_baselines(cls, value: list[str]) -> list[str]:
        return checked_baselines(value)

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str]) -> list[str]:
        return checked_metrics(value)

    @field_validator("instructions")
    @classmethod
    def _different_texts(cls, value: list[str] | None) -> list[str] | None:
        if value and (len({*value}) < len(value) or not all(text.strip() for text in value)):
            raise ValueError("must be different texts that are not empty")
        return value

    @field_validator("labels")
    @classmethod
    def _different_labels(cls, value: list[str] | None) -> list[str] | None:
        return value if value is None else checked_labels(value)

    @model_validator(mode="after")
    def _labels_of_use(self) -> "Config":
        if self.labels is not None and "accuracy" not in self.metrics:
            raise ValueError("'labels' is set, but no metric uses it. Add accuracy to `metrics`, or remove it")
        if INSTRUCTION in self.baselines and self.tune is None:
            raise ValueError(f"baselines: '{INSTRUCTION}' is found by a search, but tune is off. Remove one of the two")
        if self.instructions is not None and INSTRUCTION not in self.baselines:
            raise ValueError(f"'instructions' is set, but nothing uses it. Add {INSTRUCTION} to `baselines`")
        if MAJORITY in self.baselines and "accuracy" not in self.metrics:
            raise ValueError(f"baselines: '{MAJORITY}' is for labels only. Add accuracy to `metrics`, or remove it")
        return self

    @field_validator("template", "target")
    @classmethod
    def _renders(cls, value: str | None, field: ValidationInfo) -> str | None:
        if value is not None:
            try:
                (prompt_template if field.field_name == "template" else target_template)(value)
            except TemplateError as error:
                raise ValueError(str(error)) from None
        return value
