"""The plan: turns a config into a list of runs with ids, exact parameter counts and facts about the data."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from bakeoff import __version__
from bakeoff.config.config import BASELINES, Config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.prepared import PreparedData
from bakeoff.data.prompt_format import TEMPLATES, make_form
from bakeoff.data.sources import content_identity, load_or_count, origin_identity
from bakeoff.data.tokenizer_checks import Marked, look_at_tokens, marked
from bakeoff.data.tokens import (
    statistics,
)
from bakeoff.driver.costs import exact_counts, least_bytes
from bakeoff.driver.counts import check_ids, context_finding, count, fit_context
from bakeoff.driver.device import survey
from bakeoff.errors import ConfigError
from bakeoff.methods import INSTALLED, method_class
from bakeoff.scoring.baselines import BASE, base_in, settle, takes_model
from bakeoff.scoring.metrics import blind_spots, rules, scoring
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Quantize, Run
from bakeoff.store.run_folder import SCHEMA, SPLITS, Folder
from bakeoff.store.scratch import scratch
from bakeoff.tuning.entries import Entry, read_entries
from bakeoff.tuning.search import Settings, budget, rungs

if TYPE_CHECKING:
    from bakeoff.compute.model.device import Facts

ROUNDING = ("tf32", "deterministic")  # in a run's id where they are set
# Parts of the protocol that a result does not depend on, or that a run's id holds in another form.
NOT_IN_RESULTS = {"seed", "seeds", "trunk_cache", "precision", "gradient_checkpointing", "quantize", *ROUNDING}
# What of all that is held equal determines the examples and their tokens.
IN_TOKENS = ("version", "template", "target", "model", "data", "max_tokens", "texts")


@dataclass
class Plan:
    """What will be run. `document` is plan.json; `data` are the examples and tokens behind it.

    `held_equal` is what every run's id is made from besides its own settings: everything that training depends on. What
    outputs and scores depend on besides is in the document, as `decoding` and `scoring`. `virtual_tokens` is the number
    of positions of the context that are kept free for soft prompts.
    """

    config: Config
    document: PlanDocument
    entries: dict[str, Entry]
    runs: list[Run]
    held_equal: dict[str, Any]
    virtual_tokens: int
    data: PreparedData


def make_plan(config: Config, tokenizer: Any = None, folder: Folder | None = None) -> Plan:
    """Return the plan of a config; raise a BakeoffError if anything in it cannot be run.

    With the base's tokenizer the plan also has facts about the examples' lengths in tokens. Their ids are written into
    `folder`, if one is given; nothing else is written. Without a folder, a hub dataset that is not here is counted by
    its limits.
    """
    if folder is None:
        with scratch() as temporary:
            return assemble(config, tokenizer, Folder(temporary), must_read=False)
    return assemble(config, tokenizer, folder, must_read=True)


def assemble(config: Config, tokenizer: Any, folder: Folder, must_read: bool) -> Plan:
    """Return the plan, with ids in `folder`."""
    entries = checked_entries(config)
    methods = {name: entry.methods() for name, entry in entries.items()}
    shapes = count(config, entries, tokenizer)
    max_tokens = fit_context(config, methods, shapes["context"])
    splits, findings, read = load_or_count(config.data, config.template, config.target, must_read)
    scored = scoring(config.metrics, config.primary, splits["test"])
    scored_by = rules(config.metrics, splits["test"])
    findings += blind_spots(config.metrics, splits["test"]) if read else []
    if max_tokens < config.protocol.max_tokens:
        findings.append(context_finding(config, methods, shapes["context"], max_tokens))
    form = make_form(tokenizer, config.template, shapes["encoder_decoder"]) if tokenizer and read else None
    steps = config.protocol.epochs * -(-len(splits["train"]) // config.protocol.batch_size)
    identity = content_identity(splits)
    held_equal = held_equal_by(config, shapes, steps) | {"data": identity, "max_tokens": max_tokens}
    device = survey(config.machine.device)
    findings += precision_findings(config, device)
    marked_texts = marked(splits, form) if form else Marked()
    held_equal |= {"texts": marked_texts.marks} if marked_texts.marks else {}
    in_tokens = [*(held_equal[key] for key in IN_TOKENS if key in held_equal), config.generation.max_new_tokens]
    data = PreparedData(folder, splits, hash_of([*in_tokens, origin_identity(splits)]))
    tokens, output_tokens = data.encode(form, max_tokens, config.generation.max_new_tokens) if form else ({}, None)
    if form and output_tokens:
        findings += look_at_tokens(splits, tokens, form, marked_texts, output_tokens)
    if tokens:
        check_ids(config.model, tokenizer, shapes["embedded_ids"], tokens)
    if not tokenizer:
        findings.append(
            f"lengths and cut documents are not measured: the tokenizer of {config.model} is not on this machine"
        )
    baselines, not_run = settle(config, splits, tokens, form, shapes["context"], output_tokens)
    lengths = {split: rows.lengths for split, rows in tokens.items()}
    facts = {s: statistics(lengths[s]) if lengths else {"examples": len(splits[s])} for s in SPLITS}
    precision = held_equal["precision"]
    runs = make_runs(config.protocol, baselines, entries, steps, held_equal)
    document = PlanDocument.model_validate({
        "schema": SCHEMA,
        "name": config.name,
        "version": __version__,
        "model": model_facts(config, shapes),
        "data": {"source": config.data.source, "identity": identity, "splits": facts, "findings": findings},
        "config": config.model_dump(mode="json", exclude={"output"}),
        "data_fingerprint": data.data_fingerprint,
        "decoding": hash_of(config.generation.model_dump()),
        "scoring": hash_of(scored_by),
        "precision": precision,
        "template": held_equal["template"],
        **scored,
        "max_tokens": max_tokens,
        "output_tokens": output_tokens,
        "texts": marked_texts.marks,
        "rungs": held_equal["rungs"],
        "epochs": config.protocol.epochs,
        "memory_bytes": device.total_bytes,
        "counts": exact_counts(lengths, config.protocol, output_tokens) if output_tokens else None,
        "entries": {n: entry_plan(e, config, steps, shapes["entries"][n], precision) for n, e in entries.items()},
        "not_run": not_run,
        "runs": runs,
    })  # fmt: skip
    virtual_tokens = max(m.virtual_tokens for group in methods.values() for m in group)
    return Plan(config, document, entries, runs, held_equal, virtual_tokens, data)


def precision_findings(config: Config, device: "Facts") -> list[str]:
    """Return what is to be said of the precision that `auto` chooses on a device."""
    if config.protocol.precision != "auto" or not device.fast_fp16:
        return []
    return [
        f"precision: {device.name} multiplies fp16 several times faster than fp32, which auto chooses on it. Try: "
        "protocol.precision: fp16, if the model was not trained in bf16"
    ]


def model_facts(config: Config, shapes: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan says about the base."""
    from bakeoff.hub import base_hashes, base_identity, base_stamps

    return {
        "name": config.model,
        "revision": config.revision,
        "identity": base_identity(config.model, config.pin),
        "weights": {n: h for n, h in base_hashes(config.model, config.pin).items() if n.endswith(".safetensors")},
        "files": base_stamps(config.model, config.pin),
        "context": shapes["context"],
        **shapes["model"],
    }


def held_equal_by(config: Config, shapes: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return what the config and the base hold equal for all trainings."""
    from bakeoff.hub import base_identity

    asked = config.protocol.precision
    return {
        "precision": survey(config.machine.device).native_precision if asked == "auto" else asked,
        "version": __version__,
        "template": config.template or TEMPLATES[shapes["encoder_decoder"]],
        "target": config.target,
        "model": base_identity(config.model, config.pin) or config.model,
        "protocol": config.protocol.model_dump(exclude=NOT_IN_RESULTS),
        "rungs": rungs(steps, config.tune is not None and config.tune.halving),
        **{name: True for name in ROUNDING if getattr(config.protocol, name)},
    }


def checked_entries(config: Config) -> dict[str, Entry]:
    """Return the config's entries; raise ConfigError if one cannot be run."""
    entries = read_entries(config)
    taken = set(entries) & {*BASELINES, *config.baselines, *map(base_in, get_args(Quantize))}
    if taken:
        raise ConfigError(f"entries.{taken.pop()}: this is the name of a baseline. Give the entry another `name:`")
    alike = {name.lower(): name for name in entries}
    for name in entries:
        if alike[name.lower()] != name:
            raise ConfigError(
                f"entries.{name}: differs from {alike[name.lower()]} in upper and lower case only, which some disks "
                f"do not distinguish. Give it another `name:`"
            )
    foreign = [f"entries.{name}: method '{e.method}'" for name, e in entries.items() if e.method not in INSTALLED]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} was registered in this process only, but each run has a process of its own. Try: a package "
            f"with an entry point in the group bakeoff.methods"
        )
    whole = [name for name, entry in entries.items() if not method_class(entry.method).checkpointable]
    if whole and config.protocol.gradient_checkpointing:
        raise ConfigError(
            f"entries.{whole[0]}: {entries[whole[0]].method} cannot be trained with protocol.gradient_checkpointing. "
            f"Try: gradient_checkpointing: false, with a smaller batch_size or max_tokens"
        )
    return entries


def entry_plan(entry: Entry, config: Config, steps: int, counts: dict[str, Any], precision: str) -> dict[str, Any]:
    """Return what the plan says about one entry.

    `trial_steps` are those of all its trials, if none fails and no extension is needed; the chosen trial is also the
    run of the first seed. `learning_rate` is None if it is searched.
    """
    trials = len(entry.trial_points)
    return {
        "method": entry.method,
        "steps": steps,
        "tuning": entry.label,
        "trials": trials,
        "trial_steps": budget(trials, steps, config.tune.halving) if config.tune and trials else 0,
        "search": {k: {"low": r.low, "high": r.high, "scale": r.scale} for k, r in entry.ranges.items()},
        "trial_points": entry.trial_points,
        "learning_rate": None if "learning_rate" in entry.ranges else entry.methods()[0].learning_rate,
        "quantize": entry.quantize,
        "least_bytes": least_bytes(
            counts["total_parameters"] - counts["packed_parameters"], counts["trainable_parameters"], precision
        )
        + counts.pop("packed_bytes"),
        **counts,
    }


def make_runs(
    protocol: ProtocolConfig, baselines: dict[str, Settings], entries: dict[str, Entry], steps: int,
    held_equal: dict[str, Any],
) -> list[Run]:  # fmt: skip
    """Return the runs of the baselines, then every entry's trials and its final runs, one per seed.

    The baselines' base is stored as the protocol says; the untouched base is measured in every other way that an entry
    has it, too.
    The settings of a tuned entry's final runs are not known yet: their ids come from its search, and the chosen
    settings are in run.json.
    """
    seeds = range(protocol.seed, protocol.seed + protocol.seeds)
    own, seed = protocol.quantize, protocol.seed
    runs = [
        make_run(n, "baseline", n, given, seed, 0, held_equal, own if takes_model(n) else "none")
        for n, given in baselines.items()
    ]
    others = sorted({entry.quantize for entry in entries.values()} - {own})
    runs += [make_run(base_in(other), "baseline", BASE, {}, seed, 0, held_equal, other) for other in others]
    for name, entry in entries.items():
        if entry.trial_points:
            runs += [
                make_trial(entry, i, point, protocol.seed, steps, held_equal)
                for i, point in enumerate(entry.trial_points, 1)
            ]
            search = {"fixed": entry.fixed, "ladder": entry.trial_points}  # its hash is in ids
            finals = [
                make_run(name, "entry", entry.method, search, s, steps, held_equal, entry.quantize) for s in seeds
            ]
            runs += [replace(final, settings={}) for final in finals]
        else:
            settings = entry.build().model_dump(mode="json")
            runs += [
                make_run(name, "entry", entry.method, settings, s, steps, held_equal, entry.quantize) for s in seeds
            ]
    return runs


def make_trial(entry: Entry, number: int, point: Settings, seed: int, steps: int, held_equal: dict[str, Any]) -> Run:
    """Return the run that tries one point of an entry's search."""
    settings = entry.build(point).model_dump(mode="json")
    search = hash_of([entry.name, entry.fixed, entry.trial_points, seed, held_equal, *packed(entry.quantize)])
    run = make_run(entry.name, "trial", entry.method, settings, seed, steps, held_equal, entry.quantize)
    return replace(run, trial=number, search=search)


def make_run(
    entry: str, kind: Any, method: str, settings: dict[str, Any], seed: int, steps: int, held_equal: dict[str, Any],
    quantize: Quantize = "none",
) -> Run:  # fmt: skip
    """Return a run whose id has a hash of everything that determines its training."""
    content_hash = hash_of([kind, method, settings, seed, held_equal, *packed(quantize)])
    return Run(f"{entry}-{content_hash}", entry, kind, method, settings, seed, steps, quantize=quantize)


def packed(quantize: Quantize) -> list[str]:
    """Return what the hash in a run's id has of the base's storage: nothing if it is as in its files."""
    return [] if quantize == "none" else [quantize]


def hash_of(content: Any) -> str:
    """Return a short hash of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
