"""A grid: one config for several tasks on several bases. Each cell is a bakeoff of its own, with its own config."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bakeoff.config.config import Config, Name
from bakeoff.config.loading import config_of, explain, set_dotted
from bakeoff.config.names import plain_name
from bakeoff.config.sections import Section
from bakeoff.config.yaml import read_yaml
from bakeoff.errors import ConfigError
from bakeoff.store.paths import at_home

KEYS = ("tasks", "models")
BASE_KEYS = ("model", "revision", "trust_remote_code")  # not a task's: a base has the same files for all tasks
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,27}"  # two of them and what joins them are the name of a bakeoff; dots part keys


@dataclass(frozen=True)
class GridCell:
    """One task on one base."""

    task: str
    base: str
    config: Config


@dataclass(frozen=True)
class GridConfig:
    """A grid: its name, its folder, and its cells, the tasks of one base together."""

    name: str
    folder: Path
    cells: list[GridCell]


def in_run_order(cells: Sequence[GridCell]) -> list[GridCell]:
    """Return the cells in the order in which they are carried out: those that want the same base follow each other."""
    wanted = [(cell.base, cell.config.protocol.precision, cell.config.protocol.quantize) for cell in cells]
    return [cell for _, cell in sorted(zip(wanted, cells, strict=True), key=lambda pair: wanted.index(pair[0]))]


class OwnKeys(Section):
    """The keys that a grid has for itself."""

    name: Name
    output: str | None = None


def is_grid(path: Path) -> bool:
    """Return whether a config file describes a grid."""
    return any(key in read_yaml(path) for key in KEYS)


def load_grid(path: Path, overrides: Mapping[str, Any] | None = None) -> GridConfig:
    """Return the grid of a YAML file; raise ConfigError, in one line, if it or one of its cells is wrong.

    `tasks` and `models` are mappings from names to keys of the config that differ; a model can be its name alone.
    """
    raw = read_yaml(path)
    set_keys(raw, overrides or {})
    own = own_keys(path, raw)
    name, folder = own.name, at_home(own.output) if own.output else Path("bakeoffs") / own.name
    given = raw.pop("tasks", None)
    tasks = named_parts(path, "tasks", {short_name(name): {}} if given is None else given)
    models = named_parts(path, "models", bases_in(path, raw))
    for model in models.values():  # its folder is named beside the grid's file, whatever the working folder is
        if "model" not in model:
            raise ConfigError(f"{path}: models: each needs `model`, for example models: {{small: {{model: base}}}}")
    cells = [
        GridCell(task, base, cell_config(path, raw, folder, (task, of_task), (base, of_base)))
        for base, of_base in models.items()
        for task, of_task in tasks.items()
    ]
    for one, other in combinations(cells, 2):
        refuse_twins(path, one, other)
    return GridConfig(name, folder, cells)


def set_keys(raw: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set the dotted keys of the command line in a grid, whose names become texts, and whose bases mappings."""
    for part in KEYS:
        if isinstance(raw.get(part), dict):
            raw[part] = {n if isinstance(n, bool) else str(n): long_form(part, keys) for n, keys in raw[part].items()}
    for key, value in overrides.items():
        if key.startswith("models.") and isinstance(raw.get("models"), list):
            raise ConfigError(
                f"-s {key}: `models` is a list, whose items have no keys. Try: names with keys, for example models: "
                "{small: {model: base}}"
            )
        set_dotted(raw, key, value)


def long_form(part: str, keys: Any) -> Any:
    """Return the keys of a base that may be given by its name alone."""
    return {"model": keys} if part == "models" and isinstance(keys, str) else keys


def own_keys(path: Path, raw: dict[str, Any]) -> OwnKeys:
    """Return the grid's name and output, and take them out of its keys; raise ConfigError if one is wrong."""
    stem = plain_name(path.stem, 27) or "grid"
    given = {"name": raw.pop("name", None), "output": raw.pop("output", None)}
    given["name"] = stem if given["name"] is None else given["name"]
    try:
        return OwnKeys.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(str(path), given, error)) from None


def short_name(text: str) -> str:
    """Return the name of a task or base that a text gives."""
    return plain_name(text, 28, "_-")


def bases_in(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the grid's bases by name, and take them out of its keys."""
    if "model" in raw and "models" in raw:
        raise ConfigError(f"{path}: 'model' and 'models' are both set. Remove one of the two")
    given = raw.pop("models", [raw.pop("model", "base")])
    if isinstance(given, dict):
        return given
    if not isinstance(given, list) or not all(isinstance(model, str) for model in given):
        raise ConfigError(f"{path}: models: expected a list of models, for example [base, gpt2], or a mapping of names")
    named = {short_name(Path(model).name): model for model in given}
    if len(named) < len(given):
        raise ConfigError(
            f"{path}: models: two have the same name. Give each its own: models: {{small: {{model: org/model}}}}"
        )
    return named


def named_parts(path: Path, key: str, given: Any) -> dict[str, dict[str, Any]]:
    """Return a mapping of names to keys of a config; a text is the name of a model."""
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{path}: {key}: expected names with the keys of each, for example news: {{data: ...}}")
    found = {}
    for name, keys in given.items():
        if isinstance(name, bool) or not re.fullmatch(NAME, str(name)):
            quotes = ". Try: quotes around it" if isinstance(name, bool) else ""  # YAML's yes and no
            raise ConfigError(
                f"{path}: {key}: {str(name)!r:.80}: expected up to 28 letters, digits, '_' and '-', a letter or digit "
                f"first{quotes}"
            )
        keys = long_form(key, keys)
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}: {key}.{name}: expected keys of a config, for example {{data: ...}}")
        of_bases = BASE_KEYS if key == "tasks" else ()
        fixed = next((k for k in (*KEYS, "name", "output", *of_bases) if k in keys), None)
        if fixed:
            where = "in `models`" if fixed in of_bases else f"beside `{key}`"
            raise ConfigError(f"{path}: {key}.{name}: '{fixed}' is the grid's own. Try: set it {where}")
        found[str(name)] = keys
    return found


def cell_config(
    path: Path, common: Mapping[str, Any], folder: Path, task: tuple[str, dict[str, Any]],
    base: tuple[str, dict[str, Any]],
) -> Config:  # fmt: skip
    """Return the config of one cell: the grid's keys, then the base's, then the task's."""
    cell = f"{task[0]}-on-{base[0]}"
    raw = merged(merged(common, base[1]), task[1])
    raw |= {"name": cell, "output": str(folder / cell)}
    return config_of(f"{path} ({task[0]} on {base[0]})", raw, path.parent)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of both; sections that both have are joined, apart from data and entries, which stay whole."""
    joined = dict(below) | dict(above)
    for key in (key for key in below if key in above and key not in ("data", "entries")):
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            joined[key] = {**below[key], **above[key]}
    return joined


def refuse_twins(path: Path, one: GridCell, other: GridCell) -> None:
    """Raise ConfigError if two cells have one folder, two tasks the same data, or two bases are the same."""
    mine, theirs = one.config, other.config
    if mine.name.casefold() == theirs.name.casefold():  # some disks do not tell letters' case apart
        raise ConfigError(
            f"{path}: {one.task} on {one.base} and {other.task} on {other.base} would have the same folder, "
            f"{mine.name}. Try: another name, which differs in more than the case of letters"
        )
    if one.task != other.task and one.base == other.base and mine.data == theirs.data:
        raise ConfigError(f"{path}: tasks.{one.task} and tasks.{other.task} have the same data, so they are one task")
    if one.base != other.base and (mine.model, mine.revision) == (theirs.model, theirs.revision):
        raise ConfigError(f"{path}: models.{one.base} and models.{other.base} are the same base")
