"""The plan: turns a config into a list of runs with ids, exact parameter counts and facts about the data."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bakeoff import __version__
from bakeoff.config.config import Config
from bakeoff.config.planned import planned, planned_config
from bakeoff.data.examples import Example
from bakeoff.data.prepared import PreparedData
from bakeoff.data.prompt_format import added_ids
from bakeoff.data.shared import SharedData
from bakeoff.data.sources import Splits, content_identity, origin_identity
from bakeoff.data.token_file import FORM
from bakeoff.data.tokens import statistics
from bakeoff.driver.counts import context_finding, count, exact_counts, fit_context
from bakeoff.driver.device import at_once, first_device, survey
from bakeoff.driver.entries import (
    checked_entries,
    choice_findings,
    entry_plan,
    schedule_findings,
    search_steps,
    virtual_tokens,
)
from bakeoff.driver.environment import accelerators, processor
from bakeoff.driver.examples import PlannedExamples, read_examples, tokenized
from bakeoff.driver.memory import Needs, check_room, needs
from bakeoff.driver.runs import make_runs
from bakeoff.driver.seed_range import check_fixed, check_rounds, plan_before
from bakeoff.driver.shards import check_decoding, check_shards, shares_weights
from bakeoff.errors import ConfigError
from bakeoff.methods import Method
from bakeoff.scoring.baselines import findings as baseline_findings
from bakeoff.scoring.baselines import settle
from bakeoff.scoring.metrics import blind_spots, rules, scoring
from bakeoff.store.content_hash import hash_of
from bakeoff.store.plan_document import ChatFacts, PlanDocument
from bakeoff.store.records import Run
from bakeoff.store.run_folder import SPLITS, Folder
from bakeoff.store.schema import SCHEMA
from bakeoff.tuning.entries import Entry
from bakeoff.tuning.search import rungs

if TYPE_CHECKING:
    from bakeoff.compute.model.device import Facts

ROUNDING = ("tf32", "deterministic", "compile_blocks")  # in a run's id where they are set
# Parts of the protocol that a result does not depend on, or that a run's id holds in another form.
NOT_IN_RESULTS = {
    "seed", "seeds", "worth", "budget", "trunk_cache", "precision", "gradient_checkpointing", "quantize", *ROUNDING,
}  # fmt: skip
# Parts of a plan that the metrics alone determine, and the hash of all others.
SCORES = {"metrics", "primary", "score_signature", "scoring", "basis", "config"}
# What of all that is held equal determines the examples and their tokens.
IN_TOKENS = ("version", "template", "target", "model", "data", "max_tokens", "texts", "chat")


@dataclass
class Plan:
    """What will be run. `document` is plan.json; `data` are the examples and tokens behind it.

    `held_equal` is what every run's id is made from besides its own settings: everything that training depends on. What
    outputs and scores depend on besides is in the document, as `decoding` and `scoring`. `virtual_tokens` is the number
    of positions of the context that are kept free for soft prompts. `again`: the plan was made from the last one;
    `read`: the examples were read, and not only counted.
    """

    config: Config
    document: PlanDocument
    entries: dict[str, Entry]
    runs: list[Run]
    held_equal: dict[str, Any]
    virtual_tokens: int
    data: PreparedData
    again: bool = False
    read: bool = True


def make_plan(
    config: Config, tokenizer: Any = None, folder: Folder | None = None, shared: SharedData | None = None,
    must_read: bool = False,
) -> Plan:  # fmt: skip
    """Return the plan of a config; raise a BakeoffError if anything in it cannot be run.

    With the base's tokenizer the plan also has facts about the examples' lengths in tokens. Their ids are written into
    `folder`, if one is given; nothing else is written. Without a folder, unless it `must_read`, a hub dataset that is
    not here is counted by its limits. What was read and tokenized for other plans with the same `shared` is used again.
    """
    if shared is None:
        with SharedData() as own:
            return make_plan(config, tokenizer, folder, own, must_read)
    return assemble(config, tokenizer, folder, shared, must_read or folder is not None)


@dataclass(frozen=True)
class Fitted:
    """The entries on their base, counted by shapes alone (`count`), the examples that fit its context, a run's steps.

    `methods` are those that the shapes are of; where `tune.budget` is set, the ends of the ranges in place of trials.
    """

    entries: dict[str, Entry]
    methods: dict[str, list[Method]]
    shapes: dict[str, Any]
    max_tokens: int
    examples: PlannedExamples
    steps: int


def fit(config: Config, tokenizer: Any, shared: SharedData, must_read: bool) -> Fitted:
    """Return what a plan is made from; raise a BakeoffError if a method, the base or the examples cannot be used."""
    entries = checked_entries(config)
    check_shards(config, entries)
    check_rounds(config, Folder(config.folder))
    methods = {name: entry.methods() for name, entry in entries.items()}
    shapes = count(config, entries, tokenizer)
    max_tokens = fit_context(config, methods, shapes["context"])
    examples = read_examples(config, tokenizer, shapes["encoder_decoder"], max_tokens, must_read, shared)
    steps = config.protocol.epochs * -(-len(examples.splits["train"]) // config.protocol.batch_size)
    if config.tune and config.tune.budget:
        entries = checked_entries(config, steps)
    return Fitted(entries, methods, shapes, max_tokens, examples, steps)


def assemble(config: Config, tokenizer: Any, folder: Folder | None, shared: SharedData, must_read: bool) -> Plan:
    """Return the plan, with ids in `folder`."""
    fitted = fit(config, tokenizer, shared, must_read)
    entries, shapes, max_tokens, steps = fitted.entries, fitted.shapes, fitted.max_tokens, fitted.steps
    examples, splits = fitted.examples, fitted.examples.splits
    scores = scores_by(config, splits["test"])
    device = survey(first_device(config.machine))
    precision = precision_of(config, device, Folder(config.folder))
    held_equal = held_equal_by(
        config, splits, max_tokens, examples.marked.marks, precision=precision, template=examples.template,
        rungs=rungs(steps, config.tune is not None and config.tune.halving), **in_ids(examples.chat),
    )  # fmt: skip
    data = prepared_data(folder or shared.folder(), config, splits, held_equal)
    tokens, output_tokens, found = tokenized(
        config, examples, data, tokenizer, max_tokens, shapes["embedded_ids"], shared, folder is not None
    )
    baselines, not_run = settle(
        config, splits, tokens, examples.form, shapes["context"], output_tokens, search_steps(config, steps)
    )
    check_decoding(config, precision)
    memory = memory_needs(config, precision, shapes, max_tokens, device)
    if must_read:
        check_room(memory.least, memory.decoding, device, entries, at_once(config.machine))
    lengths = {split: rows.lengths for split, rows in tokens.items()}
    facts = {s: statistics(lengths[s]) if lengths else {"examples": len(splits[s])} for s in SPLITS}
    texts = [*blind_spots(config.metrics, splits["test"]), *baseline_findings(baselines, splits["train"])]
    found += texts if examples.read else []
    findings = [*first_findings(config, fitted), *precision_findings(config, device), *found, *memory.findings]
    runs = make_runs(config.protocol, baselines, entries, steps, held_equal)
    check_fixed(config, Folder(config.folder), runs)
    document = PlanDocument.model_validate({
        "schema": SCHEMA, "name": config.name, "version": __version__,
        "model": model_facts(config, shapes),
        "data": {"source": config.data.source, "identity": held_equal["data"], "splits": facts, "findings": findings},
        "config": planned(config),
        "data_fingerprint": data.data_fingerprint,
        "decoding": hash_of(decoding_by(config, memory.decoding, tokenizer)),
        "precision": precision, "decoding_precision": memory.decoding,
        "template": examples.template, "chat": examples.chat, "texts": examples.marked.marks,
        **scores,
        "max_tokens": max_tokens, "output_tokens": output_tokens,
        "looks": list(config.protocol.looks), "rungs": held_equal["rungs"], "epochs": config.protocol.epochs,
        "memory_bytes": device.total_bytes, "at_once": at_once(config.machine),
        "counts": exact_counts(lengths, config.protocol, output_tokens) if output_tokens else None,
        "entries": {n: entry_plan(e, config, steps, shapes["entries"][n], memory.least[n]) for n, e in entries.items()},
        "not_run": not_run, "runs": runs,
    })  # fmt: skip
    document = document.model_copy(update={"basis": basis_of(config, document)})
    return Plan(config, document, entries, runs, held_equal, virtual_tokens(entries), data, read=examples.read)


def precision_of(config: Config, device: "Facts", folder: Folder) -> str:
    """Return the number format of frozen weights and products.

    What `auto` has chosen for a folder stays as long as its runs use the same hardware: on a processor it is measured,
    and another choice would void the runs there are.
    """
    if config.protocol.precision != "auto":
        return config.protocol.precision
    before, there = plan_before(config, folder), folder.environment()
    if before and (there.get("processor"), there.get("gpu")) == (processor(), device.name):
        with suppress(ConfigError):  # a damaged plan
            if planned_config(folder, before).protocol.precision == "auto":
                return before.precision
    return device.native_precision


def memory_needs(config: Config, precision: str, shapes: dict[str, Any], max_tokens: int, device: "Facts") -> Needs:
    """Return the least memory of each entry; weights that are shared out are decoded as they are trained."""
    if not shares_weights(config):
        return needs(config.generation.precision, precision, shapes, max_tokens, device)
    return needs(precision, precision, shapes, max_tokens, device, config.machine.shards)


def in_ids(chat: ChatFacts | None) -> dict[str, str]:
    """Return what of a chat template is in the ids of runs; nothing where prompts are plain text."""
    return {} if chat is None else {"chat": chat.rendered}


def first_findings(config: Config, fitted: Fitted) -> list[str]:
    """Return what is to be said of the examples, of the context, and of methods with schedules of their own."""
    cut = fitted.max_tokens < config.protocol.max_tokens
    context = fitted.shapes["context"]
    cuts = [context_finding(config, fitted.methods, context, fitted.max_tokens)] if cut else []
    schedules = schedule_findings(config.protocol.schedule, fitted.methods)
    return [*fitted.examples.findings, *cuts, *schedules, *choice_findings(fitted.entries)]


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


def held_equal_by(config: Config, splits: Splits, max_tokens: int, texts: list[str], **others: Any) -> dict[str, Any]:
    """Return what is held equal for all trainings; `others` are precision, template and rungs."""
    from bakeoff.hub import base_identity

    return {
        "version": __version__,
        "target": config.target,
        "model": base_identity(config.model, config.pin) or config.model,
        "protocol": config.protocol.model_dump(exclude=NOT_IN_RESULTS),
        "data": content_identity(splits),
        "max_tokens": max_tokens,
        **({"texts": texts} if texts else {}),
        **{name: True for name in ROUNDING if getattr(config.protocol, name)},
        **others,
    }


def prepared_data(folder: Folder, config: Config, splits: Splits, held_equal: dict[str, Any]) -> PreparedData:
    """Return a plan's data with their fingerprint."""
    in_tokens = [*(held_equal[key] for key in IN_TOKENS if key in held_equal), config.generation.max_new_tokens, FORM]
    return PreparedData(folder, splits, hash_of([*in_tokens, origin_identity(splits)]))


def decoding_by(config: Config, precision: str, tokenizer: Any) -> dict[str, Any]:
    """Return what outputs are made by, and the neutral text that is read beside them: it begins as prompts do."""
    begin, _ = added_ids(tokenizer) if tokenizer else ([], [])
    return config.generation.model_dump() | {"precision": precision} | ({"begin": begin} if begin else {})


def scores_by(config: Config, test: Sequence[Example]) -> dict[str, Any]:
    """Return a plan's facts about scores, after trying each metric; raise a BakeoffError if one cannot score."""
    return {**scoring(config.metrics, config.primary, test), "scoring": hash_of(rules(config.metrics, test))}


def basis_of(config: Config, plan: PlanDocument) -> str:
    """Return a hash of what a plan is made from besides data and metrics, and of its content besides scores.

    Trackers and the sections `judge`, `price` and `safety` change neither.
    """
    from bakeoff.hub import base_stamps

    given = config.model_dump(
        mode="json", exclude={"metrics", "primary", "judge", "output", "price", "safety", "trackers"}
    )
    row = {key: value for key, value in plan.row().items() if key not in SCORES}
    row |= {"data": row["data"] | {"findings": without_scores(plan.data.findings)}}
    return hash_of([__version__, given, base_stamps(config.model, config.pin), accelerators(), row])


def without_scores(findings: list[str]) -> list[str]:
    """Return those findings that are not about a metric."""
    return [line for line in findings if not line.startswith("metrics: ")]
