"""The plan: a config becomes a list of runs with ids, exact parameter counts and the data's facts."""

import hashlib
import json
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

from bakeoff import __version__
from bakeoff.config import BASELINES, Config, ProtocolConfig
from bakeoff.data.sources import Splits, content_identity, load_examples
from bakeoff.data.tokens import (
    StoredTokens,
    encode,
    load_tokens,
    longest_output,
    save_tokens,
    statistics,
    target_lengths,
)
from bakeoff.errors import ConfigError
from bakeoff.evaluation.baselines import settle
from bakeoff.methods import INSTALLED, Method, build_method
from bakeoff.records import SPLITS, Folder, Run

# Parts of the protocol that a result does not depend on, or that a run's id holds in another form.
NOT_IN_RESULTS = {"seed", "seeds", "trunk_cache", "precision", "gradient_checkpointing"}


@dataclass
class Plan:
    """What will be run. `document` is plan.json; `splits` are the examples behind it."""

    document: dict[str, Any]
    runs: list[Run]
    splits: Splits


def make_plan(config: Config, tokenizer: Any = None, folder: Folder | None = None) -> Plan:
    """Return the plan of a config; raise a BakeoffError for anything in it that cannot be run.

    With the base's tokenizer the plan also holds what the examples' lengths in tokens tell. Their ids are left in
    `folder`, where one is given; nothing else is written.
    """
    if folder is None:
        with TemporaryDirectory(prefix="bakeoff-") as temporary:
            return make_plan(config, tokenizer, Folder(temporary))
    from bakeoff.hub import base_identity
    from bakeoff.model import choose_precision, default_device

    methods = build_methods(config)
    shapes = count(config.model, methods)
    max_tokens = fit_context(config, methods, shapes["context"])
    splits, findings = load_examples(config.data)
    tokens, output_tokens = encode_splits(config, splits, tokenizer, max_tokens, folder) if tokenizer else ({}, None)
    if not tokens:
        findings.append(
            f"lengths and cut documents not measured: the tokenizer of {config.model} is not on this machine"
        )
    baselines, not_run = settle(config, splits["train"], tokens, tokenizer, shapes["context"], output_tokens)
    model = {
        "name": config.model,
        "identity": base_identity(config.model),
        "context": shapes["context"],
        **shapes["model"],
    }
    data = {
        "source": config.data.source,
        "identity": content_identity(splits),
        "splits": {s: statistics(tokens[s].lengths) if tokens else {"examples": len(splits[s])} for s in SPLITS},
        "findings": findings,
    }
    precision = choose_precision(config.protocol.precision, default_device())
    held_equal = {
        "precision": precision,
        "version": __version__,
        "template": config.template,
        "model": model["identity"] or config.model,
        "data": data["identity"],
        "max_tokens": max_tokens,
        "generation": config.generation.model_dump(),
        "protocol": config.protocol.model_dump(exclude=NOT_IN_RESULTS),
    }
    steps = config.protocol.epochs * -(-len(splits["train"]) // config.protocol.batch_size)
    runs = make_runs(config.protocol, baselines, methods, steps, held_equal)
    document = {
        "name": config.name,
        "model": model,
        "data": data,
        "precision": precision,
        "max_tokens": max_tokens,
        "output_tokens": output_tokens,
        "entries": {n: entry_plan(method, steps, shapes["entries"][n]) for n, method in methods.items()},
        "not_run": not_run,
        "runs": [asdict(run) for run in runs],
    }
    return Plan(document, runs, splits)


def build_methods(config: Config) -> dict[str, Method]:
    """Return the entries' methods by entry; raise ConfigError where one cannot be run."""
    methods = {name: build_method(name, settings) for name, settings in config.entries.items()}
    taken = set(methods) & {*BASELINES, *config.baselines}
    if taken:
        raise ConfigError(f"entries.{taken.pop()}: the name of a baseline. Give the entry another `name:`")
    foreign = [f"entries.{name}: method '{m.name}'" for name, m in methods.items() if m.name not in INSTALLED]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} was registered by this process alone, and runs have their own. "
            "Try: a package with an entry point of the group bakeoff.methods"
        )
    return methods


def entry_plan(method: Method, steps: int, counts: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan says of one entry; `trials` are those of a search for a learning rate."""
    return {"method": method.name, "steps": steps, "trials": 0, "learning_rate": method.learning_rate, **counts}


def make_runs(
    protocol: ProtocolConfig, baselines: dict[str, dict[str, Any]], methods: dict[str, Method], steps: int,
    held_equal: dict[str, Any],
) -> list[Run]:  # fmt: skip
    """Return the baselines' runs, then every entry with every seed."""
    seeds = range(protocol.seed, protocol.seed + protocol.seeds)
    runs = [make_run(n, "baseline", n, given, protocol.seed, 0, held_equal) for n, given in baselines.items()]
    for name, method in methods.items():
        runs += [make_run(name, "entry", method.name, method.model_dump(), s, steps, held_equal) for s in seeds]
    return runs


def encode_splits(
    config: Config, splits: Splits, tokenizer: Any, max_tokens: int, folder: Folder
) -> tuple[dict[str, StoredTokens], int]:
    """Write every split's token ids to the folder; return them, and how many tokens an output may have.

    A folder that has a plan has its tokens too, and is only read: if they are of other data, so are its runs' ids.
    """
    output_tokens = config.generation.max_new_tokens
    if not folder.plan_file.exists():
        output_tokens = output_tokens or longest_output(target_lengths(splits["train"], tokenizer))
        for split in SPLITS:
            rows = encode(splits[split], tokenizer, config.template, max_tokens, output_tokens, f"data.{split}")
            save_tokens(folder.tokens_file(split), rows)
    tokens = {split: load_tokens(folder.tokens_file(split)) for split in SPLITS}
    return tokens, output_tokens or longest_output(tokens["train"].lengths.targets)


def make_run(
    entry: str, kind: Any, method: str, settings: dict[str, Any], seed: int, steps: int, held_equal: dict[str, Any]
) -> Run:
    """Return a run whose id holds a hash of all that determines its result."""
    content = json.dumps([kind, method, settings, seed, held_equal], sort_keys=True)
    return Run(
        f"{entry}-{hashlib.sha256(content.encode()).hexdigest()[:10]}", entry, kind, method, settings, seed, steps
    )


def count(model: str, methods: dict[str, Method]) -> dict[str, Any]:
    """Return exact counts of the base and of every entry, from shapes alone: no weights are read."""
    import torch

    from bakeoff.model import count_parameters, shape_only

    base = shape_only(model)
    config = base.config.get_text_config(decoder=True)
    counts: dict[str, Any] = {
        "context": getattr(config, "max_position_embeddings", None),
        "model": {"total_parameters": count_parameters(base)[1], "architecture": type(base).__name__},
        "entries": {},
    }
    for name, method in methods.items():
        with torch.device("meta"):
            trainable, total = count_parameters(method.adapt(shape_only(model), None))
        counts["entries"][name] = {
            "trainable_parameters": trainable,
            "total_parameters": total,
            "trainable_percent": 100 * trainable / total,
        }
    return counts


def fit_context(config: Config, methods: dict[str, Method], context: int | None) -> int:
    """Return the longest example in tokens for every entry: what the context leaves beside the largest soft prompt."""
    virtual = max(m.virtual_tokens for m in methods.values())
    if context is None:
        return config.protocol.max_tokens
    if context - virtual < 32:
        name = max(methods, key=lambda n: methods[n].virtual_tokens)
        raise ConfigError(
            f"entries.{name}.num_virtual_tokens: {virtual} leaves {max(0, context - virtual)} of the model's {context} "
            f"positions for text. Allowed: at most {context - 32}"
        )
    return min(config.protocol.max_tokens, context - virtual)
