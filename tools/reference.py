"""Write docs/reference from the code: `python tools/reference.py`. A test compares the pages with what this writes."""

import json
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from bakeoff.cli.main import main
from bakeoff.config.config import Config
from bakeoff.methods.method import method_class
from bakeoff.methods.reference import method_document
from bakeoff.store.documents import CurveRow, ExampleRow, PredictionRow, ResultRow
from bakeoff.store.events import EVENTS, Event
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.schema import SCHEMA

FOLDER = Path(__file__).parent.parent / "docs/reference"
TYPES = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "object": "mapping",
    "null": "null",
}  # fmt: skip
MADE = "<!-- made by tools/reference.py: change the code, then run it -->"

DOCUMENTS: dict[str, tuple[Any, str]] = {
    "plan.json": (PlanDocument, "what runs, and what is known about it in advance"),
    "results.json": (ResultsDocument, "the results; `bakeoff show --json` prints them too"),
    "events.jsonl": (EVENTS, "what happens while a bakeoff is running, one event per line"),
    "result.json": (ResultRow, "the record of one run, in the folder of the run"),
    "metrics.jsonl": (CurveRow, "the curve of one run, one validation per line"),
    "predictions.jsonl": (PredictionRow, "the outputs of one run with their scores, one test example per line"),
    "data/SPLIT.jsonl": (ExampleRow, "the examples of a split (train, validation or test), one per line"),
}


def pages() -> dict[str, str]:
    """Return the text of each page by its file's name."""
    made = {"cli.md": cli_page(), "config.md": config_page(), "methods.md": methods_page(), "folder.md": folder_page()}
    return made | {schema_file(name): schema_text(kind) for name, (kind, _) in DOCUMENTS.items()}


def cli_page() -> str:
    """Return the page of commands: usage, help and options of each."""
    codes = (
        "Exit codes: 0 all runs are done, 1 a run failed, 2 wrong usage or config, or output that cannot be written, "
        "130 interrupted, 141 the output was closed by its reader."
    )
    parts = [MADE, "# Commands", f"{codes} Results go to standard output, progress to standard error."]
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, info_name=f"bakeoff {name}")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts += [f"## bakeoff {name}", f"```\n{usage}\n```", cleaned(command.help or "")]
        rows = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
        parts += table(("option", "meaning"), [(f"`{row[0]}`", row[1]) for row in rows if row])
    return "\n\n".join(parts) + "\n"


def config_page() -> str:
    """Return the page of the config: a table for each section."""
    parts = [
        MADE,
        "# Config",
        "Every key of the YAML, with its default. `-s a.b=value` on the command line overrides a key.",
    ]
    parts += section_tables(Config, "")
    return "\n\n".join(parts) + "\n"


def section_tables(section: type[BaseModel], path: str) -> list[str]:
    """Return a heading, a description and a table for a section, then the same for each section in it."""
    rows, below = [], list[str]()
    schemas = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        inner = section_class(field)
        if inner:
            below += section_tables(inner, f"{path}{name}.")
        rows.append((f"`{path}{name}`", default(field, inner), words(schemas[name]), field.description or ""))
    heading = [f"## {path.rstrip('.')}", cleaned(section.__doc__ or "")] if path else []
    return [*heading, *table(("key", "default", "type", "meaning"), rows), *below]


def section_class(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field holds, or None if it holds a plain value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def section_keys(section: type[BaseModel], path: str) -> dict[str, str]:
    """Return the dotted key of every section in a section, by the name of its class."""
    keys = {}
    for name, field in section.model_fields.items():
        if inner := section_class(field):
            keys |= {inner.__name__: f"{path}{name}"} | section_keys(inner, f"{path}{name}.")
    return keys


def default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    """Return a field's default as YAML."""
    if field.is_required():
        return "required"
    if inner and (field.default_factory or field.default is None or isinstance(field.default, BaseModel)):
        return "see below"
    return f"`{yaml_value(field.get_default(call_default_factory=True))}`"


def yaml_value(value: Any) -> str:
    """Return a value as YAML, on one line."""
    words = {None: "null", True: "true", False: "false", "": '""'}
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_value, value))}]"
    return words[value] if value is None or isinstance(value, bool) or value == "" else str(value)


def words(schema: dict[str, Any]) -> str:
    """Return a JSON Schema's type in words; a section links to its table."""
    if "$ref" in schema:
        return f"[section](#{section_keys(Config, '')[schema['$ref'].rpartition('/')[2]].replace('.', '')})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(words(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        item = words(schema.get("items", {}))
        return f"list of {item}{'s' if item in ('text', 'number', 'whole number') else ''}"
    return TYPES.get(schema.get("type", ""), "anything")


def methods_page() -> str:
    """Return the page of methods: summary, paper, and a table of fields."""
    parts = [MADE, "# Methods and their fields"]
    for name, method in method_document().items():
        parts += [f"## {name}", method["summary"], *([f"Paper: {method['paper']}"] if method["paper"] else [])]
        rows, schemas = [], method_class(name).model_json_schema()["properties"]
        for field, facts in method["fields"].items():
            span = method["search_range"].get(field)
            searched = f" Searched from {span[0]:g} to {span[1]:g}." if span else ""
            given = "required" if facts["required"] else f"`{yaml_value(facts['default'])}`"
            rows.append((f"`{field}`", given, words(schemas[field]), f"{facts['description'] or ''}.{searched}"))
        parts += table(("field", "default", "type", "meaning"), rows)
    return "\n\n".join(parts) + "\n"


def folder_page() -> str:
    """Return the page of the documents in a run folder: the schema of each, and the kinds of events."""
    parts = [
        MADE,
        "# Documents in a run folder",
        "The JSON Schema of each document that bakeoff writes. Each document except the examples may also have keys "
        f"that its schema does not name. `plan.json` and `results.json` have `schema: {SCHEMA}`. If the number "
        "differs, another version of bakeoff made the folder, and this one refuses to read it.",
    ]
    rows = [(f"`{n}`", words_, f"[schema]({schema_file(n)})") for n, (_, words_) in DOCUMENTS.items()]
    parts += table(("file", "content", "JSON Schema"), rows)
    about = "Each line of `events.jsonl` has `time` (seconds since 1970) and `kind`; events of a run also have `run`."
    kinds = [(f"`{event.model_fields['kind'].default}`", event.__doc__ or "") for event in get_args(Event)]
    parts += ["## Events", about, *table(("kind", "meaning"), kinds)]
    return "\n\n".join(parts) + "\n"


def schema_file(name: str) -> str:
    """Return the name of the file with a document's schema."""
    return f"{Path(name).stem.replace('SPLIT', 'examples')}.schema.json"


def schema_text(kind: Any) -> str:
    """Return a document's JSON Schema as text."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **adapter.json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a Markdown table as a list of one text; an empty list if there are no rows."""
    if not rows:
        return []
    lines = [heading, tuple("---" for _ in heading), *rows]
    return ["\n".join("| " + " | ".join(cleaned(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)]


def cleaned(text: str) -> str:
    """Return text on one line, so that Markdown shows it as written."""
    return " ".join(text.split()).replace("<", "&lt;")


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
