"""YAML and paths as a person writes them, in a file or on the command line. Knows nothing of what a config holds."""

import os
from pathlib import Path
from typing import Any

import yaml

from bakeoff.errors import ConfigError

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice in one mapping: the parser alone would take the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping; raise MarkedYAMLError where a key stands in it twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def at_home(path: str) -> Path:
    """Return the path with a leading ~ replaced by the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file. Try: bakeoff init DATAFILE, which writes one, or bakeoff demo"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder, expected a config file. Try: {path / 'bakeoff.yaml'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        data = path.suffix in DATA_SUFFIXES
        cure = f". That is a data file: try bakeoff init {path}" if data else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({problem}){cure}") from None
    if not isinstance(raw, dict):
        got = {type(None): "nothing", list: "a list"}.get(type(raw), "a text")
        raise ConfigError(f"{path}: expected keys and values, got {got}. Try: bakeoff init DATAFILE")
    return raw


def parse_override(text: str) -> tuple[str, Any]:
    """Return (key, value) of `a.b=c`, the value read as YAML, or as text where it is none ({{ document }}: ...)."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"-s {text}: expected KEY=VALUE, as in -s protocol.epochs=1")
    try:
        return key, yaml.load(value, UniqueKeys)
    except yaml.YAMLError:
        return key, value
