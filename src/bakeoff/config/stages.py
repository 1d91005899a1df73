"""The sections of the YAML about two stages of a bakeoff: the search of settings, and the decoding of outputs."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from bakeoff.config.sections import Section

TRIALS, MOST_TRIALS = 4, 1000


class TuneConfig(Section):
    """How settings are searched: every entry with something to search gets the same number of trials."""

    trials: int | None = Field(
        None,
        ge=1,
        le=MOST_TRIALS,
        description="trials per entry, each with different settings and the first seed; one more follows if the best "
        "is at the edge of the search; null: 4, or as many as `budget` holds",
    )
    budget: int | None = Field(
        None,
        ge=1,
        description="optimizer steps for all trials of an entry together, in place of `trials`: every entry gets as "
        "many trials as they hold, at most 1,000",
    )
    sampler: Literal["halton", "tpe"] = Field(
        "halton",
        description="halton: all settings are drawn before anything runs (even points of one field, a Halton sequence "
        "over several); tpe: half of them are, and each further one follows from the losses so far (Optuna's "
        "tree-structured Parzen estimator; needs pip install 'bakeoff[optuna]')",
    )
    halving: bool = Field(
        True,
        description="stop the worse half of an entry's trials after a quarter of the steps, and again after half of "
        "the steps",
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "not a number of optimizer steps. A budget in time would give another machine other trials. Try: 1000; "
                "`bakeoff plan --probe` says how long it takes"
            )
        return value

    @model_validator(mode="after")
    def _one_measure(self) -> "TuneConfig":
        if self.budget is not None and self.trials is not None:
            raise ValueError("'budget' and 'trials' are two measures of the same search. Remove one of the two")
        return self


class GenerationConfig(Section):
    """How outputs are decoded: greedily, the same for every entry; a model's own generation settings are not used."""

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="maximum tokens per output; null: the 99th percentile of the training targets' lengths, or half of "
        "the tokens that the template leaves if that leaves no room for a document",
    )
    batch_size: int | None = Field(
        None, ge=1, le=100_000,
        description="documents that are decoded together; on a CPU this does not change the outputs, on a GPU a token "
        "that is almost as likely as another may change; null: at most 64, with at most 1 GiB of keys and "
        "values; on a GPU at most 256, with keys and values in at most half of its free memory",
    )  # fmt: skip
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="number format of decoding; fp32: no output depends on the others in its batch (on a GPU hardly "
        "any); bf16 and fp16: need less memory, but a token that is almost as likely as another may change; auto: "
        "fp32, or the format of protocol.precision if the base has more than 2 billion weights, or its fp32 weights do "
        "not fit into memory; the plan says which",
    )
