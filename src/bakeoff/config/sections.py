"""The base of all sections of the YAML, and the section `protocol`.

Field descriptions also become the schema.
"""

import re
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from bakeoff.store.records import Quantize


def encodable(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8: half a surrogate pair, which YAML's escapes can make, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return a field's type, or the members of a union. The type of a list's items is not among them."""
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
            raise ValueError("contains a null character, which is not allowed in a path or text")
        return value


@dataclass(frozen=True)
class Pin:
    """The version of a hub model (None: its main branch), and whether code that comes with it may run."""

    revision: str | None = None
    remote_code: bool = False


LATEST = Pin()


SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class SeedRange(Section):
    """Final runs per entry in rounds: `min` for all; more only for entries that may still be told from the best."""

    min: int = Field(3, ge=2, le=1000, description="final runs of every entry; 2 only with four entries or more")
    max: int = Field(
        ge=2,
        le=1000,
        description="final runs of an entry at most; it is chosen once: raising it after a look at the results would "
        "void the error rate",
    )

    @field_validator("max")
    @classmethod
    def _in_order(cls, value: int, fields: ValidationInfo) -> int:
        if value < fields.data.get("min", 0):
            raise ValueError(f"below min ({fields.data['min']}). Raise it, or write one number for all")
        return value

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which results are looked at: each up to six, then about half as many again."""
        found = [self.min]
        while found[-1] < self.max:
            found.append(min(self.max, found[-1] + 1 if found[-1] < 6 else int(1.46 * found[-1])))
        return tuple(found)


class ProtocolConfig(Section):
    """Settings that are the same for every entry."""

    epochs: int = Field(3, ge=1, le=100_000, description="number of passes over the training examples")
    batch_size: int = Field(8, ge=1, le=100_000, description="examples per optimizer step")
    max_tokens: int = Field(
        512,
        ge=16,
        le=10_000_000,
        description="maximum tokens of template, document and target together; a document that is too long is cut at "
        "its end",
    )
    warmup_share: float = Field(
        0.06, ge=0, le=1, description="share of the steps during which the learning rate rises to its peak"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="shape of the learning rate after the warm-up"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    clip_norm: float | None = Field(
        1.0,
        gt=0,
        description="maximum norm of the gradient, to which larger gradients are scaled down; null: no clipping",
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between validations; null: once per epoch")
    trunk_cache: Literal["auto", "off"] | ByteSize = Field(
        "auto",
        description="disk space for the stored outputs of frozen blocks: a size (2GB), auto (as much as needed) or off "
        "(they are computed again at every step)",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="recompute blocks in the backward pass: training is about a third slower and needs far less memory",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="end a run after this many validations in a row without a new best; null: every run takes all "
        "steps",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="first random seed, for initial values and for the order of examples"
    )
    seeds: int | SeedRange = Field(
        3,
        description="final runs per entry, with the random seeds `seed`, `seed` + 1 and so on; {min: 3, max: 8}: in "
        "rounds, three for all, and more only for the entries that may still be told from the best",
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="time for all runs together, for example 4h, where `seeds` are in rounds: after the first round, "
        "which always runs, none is begun that would not fit; null: no limit",
    )
    worth: float | None = Field(
        None,
        gt=0,
        description="the largest difference that does not matter to you, for scores from 0 to 1 in points: memory, "
        "size and time then choose among the entries that are shown to be within it of the best; null: half the "
        "detectable gap",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="number format of frozen weights and matrix products; auto: bf16 if the hardware multiplies it "
        "faster than fp32, which is measured on a processor, else fp32; fp16 (with scaled gradients): for GPUs older "
        "than bf16, such as T4 and V100",
    )
    tf32: bool = Field(
        False,
        description="let NVIDIA GPUs round the factors of fp32 matrix products to 10 bits, which is several times "
        "faster; nothing changes on other devices",
    )
    deterministic: bool = Field(
        False,
        description="let a GPU add in the same order each time, so that runs are repeated and resumed bit for bit, as "
        "on a CPU; slower, and a run fails if its model needs an operation that cannot",
    )
    compile_blocks: bool = Field(
        False,
        description="compile each block of the model for training (torch.compile): for GPUs and runs of many hundred "
        "steps, since the first ones may take a minute; sums are rounded in another way; needs a C++ compiler",
    )
    quantize: Quantize = Field(
        "none",
        description="how the base's weight matrices are stored while adapters train over them: none (as they are), nf4 "
        "(four bits, as in QLoRA) or int8 (eight bits); an entry may have its own `quantize`",
    )

    @field_validator("trunk_cache", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @field_validator("budget", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value) if isinstance(value, str) else None
        if isinstance(value, str) and not found:
            raise ValueError("not a time. Write it as 90m, 4h or 1.5d")
        return float(found[1]) * SECONDS[found[2]] if found else value

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, value: int | SeedRange) -> int | SeedRange:
        if isinstance(value, int) and not 1 <= value <= 1000:
            raise ValueError(
                f"{value} final runs per entry. Allowed: 1 to 1,000, or a range such as {{min: 3, max: 8}}"
            )
        return value

    @model_validator(mode="after")
    def _budget_of_rounds(self) -> "ProtocolConfig":
        if self.budget is not None and not self.looks:
            raise ValueError("'budget' is set, but a fixed number of seeds is always run. Try: seeds: {min: 3, max: 8}")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which results are looked at; empty if the number of seeds is fixed."""
        return self.seeds.looks if isinstance(self.seeds, SeedRange) else ()

    @property
    def most_seeds(self) -> int:
        """The number of final runs that an entry has at most."""
        return self.seeds.max if isinstance(self.seeds, SeedRange) else self.seeds
