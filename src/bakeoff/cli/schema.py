"""The JSON Schema of a config, for editors: every section, the fields of every method, and the short forms."""

import json
from typing import Any, get_args

from bakeoff.config.config import Config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.methods.method import method_class, method_names
from bakeoff.store.records import Quantize
from bakeoff.tuning.entries import RangeConfig, choices_of

SCHEMA_FILE = "bakeoff.schema.json"
NUMBERS = {"integer", "number"}


def json_schema() -> str:
    """Return the schema as JSON."""
    schema = Config.model_json_schema()
    definitions, fields = schema["$defs"], schema["properties"]
    definitions["Range"] = RangeConfig.model_json_schema() | {"title": "Range"}
    for name in method_names():
        definitions[f"{name}Fields"] = method_schema(name)
    allow(fields["data"], {"type": "string", "description": "a source: docstrings, a folder or a hub dataset"})
    allow(fields["tune"], {"enum": ["on", "off", True, False]})
    allow(definitions["ProtocolConfig"]["properties"]["trunk_cache"], {"type": ["string", "boolean"]})
    allow(definitions["ProtocolConfig"]["properties"]["budget"], {"type": "string"})
    fields["entries"] = {"description": fields["entries"]["description"], "anyOf": entry_forms()}
    fields |= grid_keys()
    schema |= {"required": ["entries"], "anyOf": [{"required": ["data"]}, {"required": ["tasks"]}]}
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A bakeoff"}
    return json.dumps(schema, indent=1)


def grid_keys() -> dict[str, Any]:
    """Return the schema of the keys that make a config a grid."""
    parts = {"type": "object", "minProperties": 1, "additionalProperties": {"type": ["object", "string"]}}
    tasks = {
        **parts,
        "additionalProperties": {"type": "object"},
        "description": "names of tasks, each with its own keys",
    }
    models = {"description": "base models, or their names with the keys of each"}
    return {"tasks": tasks, "models": models | {"anyOf": [{"type": "array", "items": {"type": "string"}}, parts]}}


def allow(field: dict[str, Any], form: dict[str, Any]) -> None:
    """Allow another form for a field, too."""
    kept = {key: field.pop(key) for key in list(field) if key not in ("description", "default", "title")}
    field["anyOf"] = [*kept.pop("anyOf", [kept] if kept else []), form]


def method_schema(method: str, **more: Any) -> dict[str, Any]:
    """Return the schema of an entry of one method: no field is required, a number may be a range, a choice a list."""
    cls = method_class(method)
    fields = cls.model_json_schema()["properties"]
    for key, field in fields.items():
        if NUMBERS & {form.get("type") for form in field.get("anyOf", [field])}:
            allow(field, {"$ref": "#/$defs/Range"})
        if words := choices_of(cls, key):
            allow(field, {"type": "array", "items": {"enum": words}, "minItems": 2, "uniqueItems": True})
    storages = get_args(Quantize) if cls.quantize is None else [cls.quantize]
    fields["quantize"] = {"enum": [*storages], "description": ProtocolConfig.model_fields["quantize"].description}
    fields["method"] = {"const": method, "description": (cls.__doc__ or "").strip().partition("\n")[0]}
    return {"type": "object", "properties": fields | more, "additionalProperties": cls.more_fields}


def entry_forms() -> list[dict[str, Any]]:
    """Return the forms of `entries`: names of methods in a list, or a mapping from an entry's name to its fields."""
    names = method_names()
    listed = [method_schema(name, name={"type": "string"}) | {"required": ["method"]} for name in names]
    own = {name: {"anyOf": [{"$ref": f"#/$defs/{name}Fields"}, {"type": "null"}]} for name in names}
    others = [{"$ref": f"#/$defs/{name}Fields", "required": ["method"]} for name in names]
    return [
        {"type": "array", "minItems": 1, "items": {"anyOf": [{"enum": names}, *listed]}},
        {"type": "object", "minProperties": 1, "properties": own, "additionalProperties": {"anyOf": others}},
    ]
