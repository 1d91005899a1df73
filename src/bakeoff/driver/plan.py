"""The plan: turns a config into a list of runs with ids, exact parameter counts and facts about the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from bakeoff import __version__
from bakeoff.config.config import Config
from bakeoff.config.names import BASELINES
from bakeoff.config.planned import planned
from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm, chat_facts, chat_findings, form_of, uses_chat
from bakeoff.data.long_targets import beyond_outputs, settled
from bakeoff.data.prepared import PreparedData
from bakeoff.data.prompt_format import TEMPLATES
from bakeoff.data.sources import Splits, content_identity, load_or_count, origin_identity
from bakeoff.data.tokenizer_checks import Marked, look_at_tokens, marked
from bakeoff.data.tokens import FORM, statistics
from bakeoff.driver.counts import check_ids, context_finding, count, exact_counts, fit_context
from bakeoff.driver.device import survey
from bakeoff.driver.environment import accelerators
from bakeoff.driver.memory import Sizes, check_room, decoding_findings, decoding_precision, least_bytes
from bakeoff.driver.runs import make_runs
from bakeoff.errors import ConfigError
from bakeoff.hub import stop_ids
from bakeoff.methods import INSTALLED, method_class
from bakeoff.scoring.baselines import base_in, settle
from bakeoff.scoring.labels import check_labels
from bakeoff.scoring.metrics import blind_spots, rules, scoring
from bakeoff.store.content_hash import hash_of
from bakeoff.store.plan_document import ChatFacts, PlanDocument
from bakeoff.store.records import Quantize, Run
from bakeoff.store.run_folder import SCHEMA, SPLITS, Folder
from bakeoff.store.scratch import scratch
from bakeoff.tuning.entries import Entry, read_entries
from bakeoff.tuning.search import budget, rungs

if TYPE_CHECKING:
    from bakeoff.compute.model.device import Facts

ROUNDING = ("tf32", "deterministic")  # in a run's id where they are set
# Parts of the protocol that a result does not depend on, or that a run's id holds in another form.
NOT_IN_RESULTS = {"seed", "seeds", "trunk_cache", "precision", "gradient_checkpointing", "quantize", *ROUNDING}
# Parts of a plan that the metrics alone determine, and the hash of all others.
SCORES = {"metrics", "primary", "score_signature", "scoring", "basis", "config"}
# What of all that is held equal determines the examples and their tokens.
IN_TOKENS = ("version", "template", "target", "model", "data", "max_tokens", "texts", "chat")


@dataclass
class Plan:
    """What will be run. `document` is plan.json; `data` are the examples and tokens behind it.

    `held_equal` is what every run's id is made from besides its own settings: everything that training depends on. What
    outputs and scores depend on besides is in the document, as `decoding` and `scoring`. `virtual_tokens` is the number
    of positions of the context that are kept free for soft prompts. `again`: the plan was made from the last one.
    """

    config: Config
    document: PlanDocument
    entries: dict[str, Entry]
    runs: list[Run]
    held_equal: dict[str, Any]
    virtual_tokens: int
    data: PreparedData
    again: bool = False


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
    form, chat = planned_form(config, tokenizer, shapes["encoder_decoder"])
    splits, findings, read = load_or_count(config.data, config.prompt, config.target, must_read, form)
    check_labels(config.labels if read else None, splits)
    scores = scores_by(config, splits["test"])
    if max_tokens < config.protocol.max_tokens:
        findings.append(context_finding(config, methods, shapes["context"], max_tokens))
    findings += chat_findings(form, chat)
    form = form if read else None
    splits, dropped = settled(splits, form, max_tokens, config.data.long_targets) if form else (splits, [])
    steps = config.protocol.epochs * -(-len(splits["train"]) // config.protocol.batch_size)
    device = survey(config.machine.device)
    findings += [*dropped, *precision_findings(config, device)]
    marked_texts = marked(splits, form) if form else Marked()
    asked = config.protocol.precision
    held_equal = held_equal_by(
        config, splits, max_tokens, marked_texts.marks, precision=device.native_precision if asked == "auto" else asked,
        template=prompt_text(config, form) or TEMPLATES[shapes["encoder_decoder"]],
        rungs=rungs(steps, config.tune is not None and config.tune.halving), **in_ids(chat),
    )  # fmt: skip
    data = prepared_data(folder, config, splits, held_equal)
    tokens, output_tokens = data.encode(form, max_tokens, config.generation.max_new_tokens) if form else ({}, None)
    if form and output_tokens:
        findings += look_at_tokens(splits, tokens, form, marked_texts, output_tokens)
        findings += beyond_outputs(splits, tokens, form, output_tokens, config.generation.max_new_tokens)
    if tokens:
        check_ids(config.model, tokenizer, shapes["embedded_ids"], tokens)
    if not tokenizer:
        findings.append(
            f"lengths and cut documents are not measured: the tokenizer of {config.model} is not on this machine"
        )
    findings += blind_spots(config.metrics, splits["test"]) if read else []
    baselines, not_run = settle(config, splits, tokens, form, shapes["context"], output_tokens)
    lengths = {split: rows.lengths for split, rows in tokens.items()}
    facts = {s: statistics(lengths[s]) if lengths else {"examples": len(splits[s])} for s in SPLITS}
    precision = held_equal["precision"]
    sizes = {name: sizes_of(shapes["entries"][name], max_tokens * shapes["cache_values"]) for name in entries}
    unpacked = max(row.total - row.packed for row in sizes.values())
    decoding = decoding_precision(config.generation.precision, precision, unpacked, device)
    least = {name: least_bytes(row, precision, decoding, device) for name, row in sizes.items()}
    findings += decoding_findings(config.generation.precision, decoding, unpacked)
    if must_read:
        check_room(least, decoding, device)
    runs = make_runs(config.protocol, baselines, entries, steps, held_equal)
    document = PlanDocument.model_validate({
        "schema": SCHEMA,
        "name": config.name,
        "version": __version__,
        "model": model_facts(config, shapes),
        "data": {"source": config.data.source, "identity": held_equal["data"], "splits": facts, "findings": findings},
        "config": planned(config),
        "data_fingerprint": data.data_fingerprint,
        "decoding": hash_of(config.generation.model_dump() | {"precision": decoding}),
        "precision": precision,
        "decoding_precision": decoding,
        "template": held_equal["template"],
        "chat": chat,
        **scores,
        "max_tokens": max_tokens,
        "output_tokens": output_tokens,
        "texts": marked_texts.marks,
        "rungs": held_equal["rungs"],
        "epochs": config.protocol.epochs,
        "memory_bytes": device.total_bytes,
        "counts": exact_counts(lengths, config.protocol, output_tokens) if output_tokens else None,
        "entries": {n: entry_plan(e, config, steps, shapes["entries"][n], least[n]) for n, e in entries.items()},
        "not_run": not_run,
        "runs": runs,
    })  # fmt: skip
    document = document.model_copy(update={"basis": basis_of(config, document)})
    return Plan(config, document, entries, runs, held_equal, virtual_tokens(entries), data)


def planned_form(config: Config, tokenizer: Any, encoder_decoder: bool) -> tuple[AnyForm | None, ChatFacts | None]:
    """Return the form of the examples, and what of a chat template is in the plan; without a tokenizer neither."""
    if tokenizer is None:
        return None, None
    form = form_of(config, tokenizer, uses_chat(config, tokenizer, encoder_decoder), encoder_decoder)
    return form, chat_facts(form, stop_ids(config.model, config.pin))


def prompt_text(config: Config, form: AnyForm | None) -> str | None:
    """Return the template of the prompt or of the user's turn; conversations have all their turns in a column."""
    if config.data.conversation:
        return f"{{{{ {getattr(config.data, config.data.conversation)} }}}}"
    return form.template if form else config.prompt


def in_ids(chat: ChatFacts | None) -> dict[str, str]:
    """Return what of a chat template is in the ids of runs; nothing where prompts are plain text."""
    return {} if chat is None else {"chat": chat.rendered}


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


def scores_by(config: Config, test: Sequence[Example]) -> dict[str, Any]:
    """Return a plan's facts about scores, after trying each metric; raise a BakeoffError if one cannot score."""
    return {**scoring(config.metrics, config.primary, test), "scoring": hash_of(rules(config.metrics, test))}


def virtual_tokens(entries: dict[str, Entry]) -> int:
    """Return the number of positions of the context that the largest soft prompt takes."""
    return max(method.virtual_tokens for entry in entries.values() for method in entry.methods())


def basis_of(config: Config, plan: PlanDocument) -> str:
    """Return a hash of what a plan is made from besides data and metrics, and of its content besides scores.

    Trackers and the section `safety` change neither.
    """
    from bakeoff.hub import base_stamps

    given = config.model_dump(mode="json", exclude={"metrics", "primary", "output", "safety", "trackers"})
    row = {key: value for key, value in plan.row().items() if key not in SCORES}
    row |= {"data": row["data"] | {"findings": without_scores(plan.data.findings)}}
    return hash_of([__version__, given, base_stamps(config.model, config.pin), accelerators(), row])


def without_scores(findings: list[str]) -> list[str]:
    """Return those findings that are not about a metric."""
    return [line for line in findings if not line.startswith("metrics: ")]


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


def sizes_of(counts: dict[str, Any], cache: int) -> Sizes:
    """Return what of an entry takes memory, by its counts; `cache` numbers are in the cache of its longest row."""
    total, trained, packed = (counts[f"{kind}_parameters"] for kind in ("total", "trainable", "packed"))
    return Sizes(total, trained, packed, counts.pop("packed_bytes"), cache)


def entry_plan(entry: Entry, config: Config, steps: int, counts: dict[str, Any], least: int) -> dict[str, Any]:
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
        "least_bytes": least,
        **counts,
    }
