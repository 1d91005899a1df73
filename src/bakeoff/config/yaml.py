"""Reads YAML from a file or from the command line. Does not know what a config contains."""

import shlex
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from bakeoff.errors import ConfigError, no_utf8
from bakeoff.store.checksums import open_file

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


LARGEST = 2**20  # bytes of a config
VALUES = 100_000  # in it, each as often as it is referred to
DEPTH = 50  # of values in values
LEVELS = 10  # of a key on the command line
BITS = 1024  # of a whole number
# What PyYAML's constructors raise over a scalar that is not what its tag says, as !!int x or the date 2026-02-30.
NO_VALUE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
# What PyYAML says of the usual slips, in words of those who write a config.
SAID = {
    "found character '\\t' that cannot start any token": "a tab, where YAML has spaces",
    "mapping values are not allowed here": "a colon, or deeper spaces, where no key may begin",
}


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key which appears twice in one mapping: the parser alone would silently take the last.

    An alias counts as if its value were written out. Size and depth are limited, as the file may come from elsewhere.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # how many values a node holds, and how deep, itself included

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Return the node of the next value; raise MarkedYAMLError if it is too large, too deep or contains itself."""
        mark = self.peek_event().start_mark
        self.depth += 1
        if self.depth > DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=mark)
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None  # the stubs are for the end of a text too
        self.depth -= 1
        if alias and id(node) not in self.sizes:
            raise yaml.MarkedYAMLError(problem="a value that contains itself", problem_mark=mark)
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        inner = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
        sizes, depths = zip((1, 0), *(self.sizes[id(part)] for part in inner), strict=True)
        self.sizes[id(node)] = sum(sizes), 1 + max(depths)
        if sum(sizes) > VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {VALUES:,} values", problem_mark=mark)
        if self.depth + 1 + max(depths) > DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping; raise MarkedYAMLError if a key appears in it twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; raise MarkedYAMLError if it is not what its tag, or its form, says."""
        try:
            value = super().construct_object(node, deep)
        except NO_VALUE:
            kind = node.tag.rpartition(":")[2]
            problem = f"{str(node.value)[:60]!r} is not a valid {'date' if kind == 'timestamp' else kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > BITS:
            raise yaml.MarkedYAMLError(problem="a number that is too large", problem_mark=node.start_mark)
        return value


@lru_cache(8)
def parsed(text: str) -> Any:
    """Return the value of a YAML text, which must not be changed: a server reads one config at each load."""
    return yaml.load(text, UniqueKeys)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    data = path.suffix in DATA_SUFFIXES
    cure = f". This is a data file. Try: bakeoff init {shlex.quote(str(path))}" if data else ""
    try:
        with open_file(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: larger than 1 MiB, so it is not a config{cure}")
        raw = deepcopy(parsed(content.decode()))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file. Try: bakeoff init DATAFILE, which writes a config, or bakeoff demo"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, expected a config file. Try: {config_in(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {no_utf8(error)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        problem = SAID.get(str(problem), problem)
        raise ConfigError(f"{path}{line}: not valid YAML ({problem}){cure}") from None
    if not isinstance(raw, dict):
        got = {type(None): "nothing", list: "a list"}.get(type(raw), "a text")
        raise ConfigError(f"{path}: expected keys and values, got {got}. Try: bakeoff init DATAFILE")
    return raw


def config_in(folder: Path) -> str:
    """Return the config file in a folder, as a run folder or `bakeoff init` has it, or how to look for one."""
    found = [file for name in ("config.yaml", "bakeoff.yaml") if (file := folder / name).is_file()]
    return str(found[0]) if found else f"ls {shlex.quote(str(folder))}"


def parse_override(text: str) -> tuple[str, Any]:
    """Return (key, value) of `a.b=c`, the value read as YAML, or as text if it is not YAML ({{ document }}: ...)."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"-s {text}: expected KEY=VALUE, for example -s protocol.epochs=1")
    if key.count(".") > LEVELS:
        raise ConfigError(f"-s {key[:60]}: more than {LEVELS} levels, so it is not a key of a config")
    try:
        parsed = yaml.load(value, UniqueKeys)
    except yaml.YAMLError:
        return key, value
    if parsed is None and value.strip().lower() != "null":  # a ~ for one's home, or a shell's variable that is not set
        said = f"'{value:.60}' means null in YAML" if value.strip() else "no value"
        raise ConfigError(f"-s {key:.60}={value:.60}: {said}. Try: a value (a path as ~/out), or null for none")
    return key, parsed
