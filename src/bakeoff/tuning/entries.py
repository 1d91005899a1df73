"""Entries: turns the fields of an entry in the config into its method, or into the ranges and values of its trials."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError

from bakeoff.config.config import Config
from bakeoff.config.sections import Section, kinds_of
from bakeoff.config.stages import TRIALS, TuneConfig
from bakeoff.errors import ConfigError, did_you_mean, listed, plain
from bakeoff.methods import Method, build_method, method_class
from bakeoff.store.records import Quantize
from bakeoff.tuning.search import Choices, Range, Settings, Span, trial_points

EXAMPLE = "as in {low: 1e-5, high: 1e-2}"


class RangeConfig(Section):
    """A range in place of a number, for any numeric field of an entry."""

    low: float = Field(description="lowest value of the range")
    high: float = Field(description="highest value of the range")
    scale: Literal["log", "linear"] = Field("log", description="how trial values are spread over the range")


@dataclass(frozen=True)
class Entry:
    """A method with its hyper-parameters, and which of them are searched.

    `fixed` are the given fields that differ from the default, in one spelling, `ranges` the searched ones,
    `trial_points` the settings of the trials that are known before anything runs; `asked` more follow from their
    losses. `label` is tuned, fixed (nothing to search) or off (tuning is off for the
    whole bakeoff). `quantize` is how its base is stored.
    """

    name: str
    method: str
    fixed: Settings
    ranges: dict[str, Span]
    trial_points: list[Settings]
    label: Literal["tuned", "fixed", "off"]
    quantize: Quantize = "none"
    asked: int = 0

    @property
    def trials(self) -> int:
        """The number of trials, without one past an edge."""
        return len(self.trial_points) + self.asked

    @property
    def ladder(self) -> list[Settings]:
        """What determines the trials' settings, for the ids of runs."""
        return [*self.trial_points, *([{"sampler": "tpe", "asked": self.asked}] if self.asked else [])]

    def build(self, searched: Settings | None = None) -> Method:
        """Return the method with these values of the searched fields; raise ConfigError if a value is not allowed."""
        return build_method(self.name, {"method": self.method, **self.fixed, **(searched or {})})

    def methods(self) -> list[Method]:
        """Return the method at each of the trial points, or the one that is fixed; if more are asked, at the ends."""
        ends = corners(self.ranges) if self.asked else []
        return [self.build(point) for point in [*self.trial_points, *ends]] or [self.build()]

    def at_ends(self) -> list[Method]:
        """Return the method at the ends of its ranges and with each choice, whether or not a trial has them."""
        return [self.build(point) for point in corners(self.ranges)]

    def chosen(self, settings: Settings) -> Settings:
        """Return the searched part of a run's settings."""
        return {name: settings[name] for name in self.ranges}


def read_entries(config: Config, trials: int | None = TRIALS) -> dict[str, Entry]:
    """Return the config's entries by name; raise ConfigError if an entry cannot be run. `trials` as in `read_entry`."""
    protocol = config.protocol
    return {
        name: read_entry(name, fields, config.tune, protocol.seed, protocol.quantize, trials)
        for name, fields in config.entries.items()
    }


def read_entry(
    name: str,
    fields: dict[str, Any],
    tune: TuneConfig | None,
    seed: int,
    quantize: Quantize = "none",
    trials: int | None = TRIALS,
) -> Entry:
    """Return one entry; a learning rate that is not given is searched over the method's own range.

    `quantize` is the protocol's; the entry's own comes first. `trials` is their number if there is something to
    search; None: not known yet, so the entry has the ends of its ranges in place of trials.
    """
    where = f"entries.{name}"
    fixed = dict(fields)
    cls = method_class(str(fixed.pop("method", name)), where).specific(fixed, where)
    quantize = quantize_of(where, cls, fixed.pop("quantize", cls.quantize or quantize))
    ranges: dict[str, Span] = {  # the first fields of a Halton sequence are spread most evenly
        key: Choices(read_choices(f"{where}.{key}", cls, key, fixed.pop(key)))
        for key, value in fields.items()
        if isinstance(value, list) and choices_of(cls, key)
    }
    ranges |= {
        key: read_range(f"{where}.{key}", cls, key, fixed.pop(key))
        for key, value in fields.items()
        if key in cls.model_fields and key not in ranges and is_range(cls, key, value)
    }
    if tune is None:
        if ranges:
            raise ConfigError(
                f"{where}.{next(iter(ranges))}: a range, but tune is off. Try: one value, or tune: {{trials: 4}}"
            )
        entry = Entry(name, cls.name, fixed, {}, [], "off", quantize)
    else:
        for key, (low, high) in cls.search_range.items():
            if key not in fields:
                ranges[key] = Range(low, high, "log", numeric_kind(cls, key) is int)
        entry = Entry(name, cls.name, fixed, ranges, [], "tuned" if ranges else "fixed", quantize)
        for point in corners(ranges):
            entry.build(point)
        if ranges:
            entry = with_trials(entry, trials, tune.sampler == "tpe", seed)
    methods = entry.methods()
    return replace(entry, fixed=essential(methods[0], fixed))


def with_trials(entry: Entry, trials: int | None, half_asked: bool, seed: int) -> Entry:
    """Return an entry with so many trials, half of them to be asked for if so; None: how many is not known yet."""
    if trials is None:
        return replace(entry, asked=1)
    check_room(f"entries.{entry.name}", entry.ranges, trials)
    drawn = trials - trials // 2 if half_asked else trials
    return replace(entry, trial_points=trial_points(entry.ranges, drawn, seed), asked=trials - drawn)


def corners(ranges: dict[str, Span]) -> list[Settings]:
    """Return settings in which all numbers are lowest or highest, and each choice occurs at least once."""
    most = max((span.count() for span in ranges.values() if isinstance(span, Choices)), default=1)
    ends = [{name: span.at(end) for name, span in ranges.items()} for end in (0, 1)]
    places = {name: span.values for name, span in ranges.items() if isinstance(span, Choices)}
    return ends + [{**ends[0], **{n: v[i % len(v)] for n, v in places.items()}} for i in range(most) if places]


def choices_of(cls: type[Method], key: str) -> tuple[str, ...]:
    """Return the words that a method's field can be, if it names them; else nothing."""
    kinds = kinds_of(cls.model_fields[key].annotation) if key in cls.model_fields else ()
    named = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return tuple(word for word in named if isinstance(word, str))


def read_choices(where: str, cls: type[Method], key: str, value: list[Any]) -> tuple[str, ...]:
    """Return the values to search over; raise ConfigError if they are not several of those that are allowed."""
    allowed = choices_of(cls, key)
    for one in value:
        if one not in allowed:
            raise ConfigError(f"{where}: unknown {one!r:.60}.{did_you_mean(str(one), allowed)}")
    if len(set(value)) < len(value) or len(value) < 2:
        raise ConfigError(f"{where}: expected one value, or several different ones. Allowed: {listed(allowed)}")
    return tuple(value)


def quantize_of(where: str, cls: type[Method], value: Any) -> Quantize:
    """Return how an entry's base is stored; raise ConfigError if it cannot be."""
    if value not in get_args(Quantize):
        raise ConfigError(f"{where}.quantize: unknown {value!r:.60}.{did_you_mean(str(value), get_args(Quantize))}")
    if cls.quantize not in (None, value):
        raise ConfigError(f"{where}.quantize: {value}, but {cls.name} is always over {cls.quantize}. Try: method: lora")
    return value


def essential(method: Method, given: Settings) -> Settings:
    """Return the given fields that differ from the default, as the method holds them; whole numbers have no point.

    Ids of runs are made from these, so a default that is written out, or another spelling of a number, runs nothing
    again.
    """
    values = method.model_dump(mode="json")
    defaults = {k: type(method).model_fields[k].get_default(call_default_factory=True) for k in given}
    kept = {k: values[k] for k in given if getattr(method, k) != defaults[k]}
    return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in kept.items()}


def numeric_kind(cls: type[Method], key: str) -> type | None:
    """Return float or int if a method's field is such a number, else None."""
    kinds = kinds_of(cls.model_fields[key].annotation)
    return float if float in kinds else int if int in kinds else None


def is_range(cls: type[Method], key: str, value: Any) -> bool:
    """Return whether a field's value is meant as a range; the method itself checks other mappings."""
    if isinstance(value, list):
        lists = any(get_origin(kind) is list for kind in kinds_of(cls.model_fields[key].annotation))
        return numeric_kind(cls, key) is not None and len(value) == 2 and not lists
    return isinstance(value, dict) and (numeric_kind(cls, key) is not None or {"low", "high"} <= set(value))


def read_range(where: str, cls: type[Method], key: str, value: Any) -> Range:
    """Return the range; raise ConfigError if it is empty, or its field is not a number."""
    kind = numeric_kind(cls, key)
    if kind is None:
        numbers = ", ".join(k for k in cls.model_fields if numeric_kind(cls, k))
        raise ConfigError(f"{where}: a range, but this field is not a number. Numeric fields of {cls.name}: {numbers}")
    if isinstance(value, list):
        raise ConfigError(f"{where}: is a list. A range has low and high, {EXAMPLE}")
    try:
        span = RangeConfig.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] == "missing")  # a slip of the pen comes first
        part = str(first["loc"][0])
        if first["type"] == "missing":
            raise ConfigError(f"{where}: '{part}' is missing. A range has low and high, {EXAMPLE}") from None
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}.{part}: unknown key.{did_you_mean(part, RangeConfig.model_fields)}") from None
        raise ConfigError(f"{where}.{part}: {plain(first)}") from None
    if span.low >= span.high:
        raise ConfigError(
            f"{where}: low {span.low:g} is not below high {span.high:g}. Try: a low below high, {EXAMPLE}"
        )
    if span.scale == "log" and span.low <= 0:
        raise ConfigError(f"{where}: low {span.low:g} on a log scale. Try: a low above 0, or scale: linear")
    return Range(span.low, span.high, span.scale, kind is int)


def check_room(where: str, ranges: dict[str, Span], trials: int) -> None:
    """Raise ConfigError if whole-number ranges have fewer settings than there are trials."""
    room = math.prod(span.count() for span in ranges.values())
    if room < trials:
        raise ConfigError(
            f"{where}.{next(iter(ranges))}: its range or list has {room:g} values, fewer than there are trials "
            f"({trials}). Try a wider range, or fewer trials"
        )
