"""What `bakeoff methods` shows, made from the classes themselves, so that it is always up to date."""

import json
from typing import Any

from bakeoff.methods.any_tuner import AnyTuner
from bakeoff.methods.method import Method, method_class, method_names


def method_document(name: str | None = None) -> dict[str, Any]:
    """Return each method's (or one method's) summary, paper, search range and fields as plain data.

    The name of a config of PEFT stands for the method `peft` with this config. Raises ConfigError if there is no such
    method or config, or if `peft` refuses the config.
    """
    return {n: _document(shown_class(n)) for n in ([name] if name else method_names())}


def shown_class(name: str) -> type[Method]:
    """Return the class that a name stands for."""
    return AnyTuner.specific({"config": name}, "methods") if name.endswith("Config") else method_class(name)


def _document(cls: type[Method]) -> dict[str, Any]:
    schema = cls.model_json_schema()["properties"]
    fields = {
        n: {
            "default": None if f.is_required() else f.get_default(call_default_factory=True),
            "required": f.is_required(),
            "description": f.description,
            "type": _kind(schema[n]),
        }
        for n, f in cls.model_fields.items()
    }
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    return {"summary": summary, "paper": cls.paper, "search_range": cls.search_range, "fields": fields}


def _kind(schema: dict[str, Any]) -> str:
    kinds = [schema.get("type")] if "type" in schema else [s.get("type") for s in schema.get("anyOf", [])]
    return " or ".join(str(kind) for kind in kinds)


def describe_methods() -> str:
    """Return the list of methods, a line each below a heading: learning rates that are searched, summary and paper."""
    lines = [("method", "learning rates", "what it does, and its paper")]
    for name, row in method_document().items():
        span = between(*row["search_range"].get("learning_rate", ()))
        lines.append((name, span, f"{row['summary']} {row['paper'].removeprefix('https://')}".rstrip()))
    names, spans = (max(len(line[part]) for line in lines) for part in (0, 1))
    return "\n".join(f"{name:{names}}  {span:{spans}}  {text}" for name, span, text in lines)


def between(low: float = 0.0, high: float = 0.0) -> str:
    """Return a range in words; nothing if there is none."""
    return f"{low:g} to {high:g}" if high else ""


def describe_method(name: str) -> str:
    """Return one method's page: summary, paper, fields with defaults and ranges."""
    row = method_document(name)[name]
    lines = [row["summary"], f"paper: {row['paper']}", "fields:"]
    width = max(len(field) for field in row["fields"])
    for field, facts in row["fields"].items():
        searched = row["search_range"].get(field)
        span = f" Searched from {between(*searched)}." if searched else ""
        default = "required" if facts["required"] else json.dumps(facts["default"])
        lines.append(f"  {field:{width}}  {default:<14} {str(facts['description']).removesuffix('.')}.{span}")
    if name in method_names():
        lines.append(f"which model families it works with: bakeoff methods {name} --matrix")
    else:
        lines.append(f"an entry with it: {{method: peft, config: {name}}}")
    return "\n".join(lines)
