"""Reading a config file: overrides, absolute paths, and what is wrong with it in one line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from bakeoff.config.config import Config
from bakeoff.config.names import metric_model, plain_name
from bakeoff.config.sections import Section
from bakeoff.config.yaml import read_yaml
from bakeoff.errors import ConfigError, did_you_mean, in_line, plain
from bakeoff.store.paths import at_home, is_file, is_folder

ROUNDS = ". Try: 3, or for seeds in rounds {min: 3, max: 8}"


def load_config(source: str | Path | dict[str, Any], overrides: dict[str, Any] | None = None) -> Config:
    """Return the config of a YAML file (or a mapping) with dotted `overrides` applied.

    Paths in `data`, and a model folder, are taken relative to the file. Raises ConfigError with one line that names
    file, key and fix.
    """
    if not isinstance(source, str | Path | dict):
        raise ConfigError(f"config: expected the path of a YAML file, or a mapping, got {source!r:.60}")
    if isinstance(source, dict):
        where, raw, base = "config", dict(source), Path()
    else:
        where, raw, base = str(source), read_yaml(Path(source)), Path(source).parent
        raw.setdefault("name", plain_name(Path(source).stem, 64) or "bakeoff")
    for key, value in (overrides or {}).items():
        set_dotted(raw, key, value)
    return config_of(where, raw, base)


def config_of(where: str, raw: dict[str, Any], base: Path) -> Config:
    """Return the config of a mapping, whose paths are relative to `base`; raise ConfigError, with `where` in front."""
    try:
        return absolute(Config.model_validate(raw), base)
    except ValidationError as error:
        raise ConfigError(explain(where, raw, error)) from None
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: {error.object!r:.80}: contains half a character. Try: write it as UTF-8 text"
        ) from None


def absolute(config: Config, base: Path) -> Config:
    """Return the config with its paths, which are relative to `base`, made absolute."""

    def resolved(path: str) -> str:
        return os.path.realpath(base / at_home(path))  # Path.resolve raises where links lead in a circle

    data = config.data
    if data.of_files:
        files = ("train", "validation", "test", "references_file")
        paths = {s: resolved(p) for s in files if (p := getattr(data, s))}
    else:
        path = resolved(data.source)
        found = data.source != "docstrings" and (is_folder(path) or (is_file(path) and "." in Path(path).name))
        paths = {"source": path} if found else {}
    changes: dict[str, Any] = {"data": data.model_copy(update=paths)}
    if config.model != "base" and is_folder(base / at_home(config.model)):
        changes["model"] = resolved(config.model)
        changes["trust_remote_code"] = config.trust_remote_code and changes["model"]
    changes["metrics"] = [metric_at(name, resolved) for name in config.metrics]
    return config.model_copy(update=changes)


def metric_at(name: str, resolved: Callable[[str], str]) -> str:
    """Return a metric's name with the whole path of its file or folder, if it has one."""
    if by_model := metric_model(name):
        kind, model = by_model
        return f"{kind}={resolved(model)}" if is_folder(Path(resolved(model))) else name
    file, colon, function = name.rpartition(":")
    return f"{resolved(file)}:{function}" if file.endswith(".py") else file + colon + function


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
            raise ConfigError(f"-s {key}: '{part}' is a value ({below!r}), so it has no keys to set")
        raw[part] = below = dict(below or {})
        raw = below
    raw[last] = value


def dump_config(config: Config) -> str:
    """Return the resolved config as YAML that `load_config` reads back to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explain(where: str, raw: dict[str, Any], error: ValidationError) -> str:
    """Return pydantic's first complaint as one line: where, what, got, what to try."""
    errors = error.errors()
    first = next((e for e in errors if not (e["type"] == "int_type" and isinstance(e["input"], dict))), errors[0])
    steps = first["loc"][:-1] if first["loc"][-2:] == ("seeds", "int") else first["loc"]
    place = ".".join(in_line(p) for p in steps if p not in ("[key]", "ChatConfig", "SeedRange"))
    if first["type"] == "extra_forbidden":
        return f"{where}: {place}: unknown key.{did_you_mean(str(first['loc'][-1]), known_keys(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{where}: {place}: missing{describe(first['loc'])}"
    text = plain(first) + (ROUNDS if first["loc"][-2:] == ("seeds", "int") else "")
    return f"{where}: {place}{': ' if place else ''}{text}"  # without a place: of keys that do not fit together


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
