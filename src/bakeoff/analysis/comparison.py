"""Compares several bakeoffs over the same test documents, if their protocols allow it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bakeoff.analysis.replay import joined
from bakeoff.analysis.statistics import Resamples, estimate
from bakeoff.analysis.summary import read_clusters, read_scores, yardstick
from bakeoff.analysis.verdict import make_verdict
from bakeoff.config.planned import planned_config
from bakeoff.errors import SetupError
from bakeoff.scoring.forgetting import with_forgetting
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run
from bakeoff.store.results_document import ResultsDocument, ResultsRow
from bakeoff.store.run_folder import Folder

Document = ResultsDocument
# Seeds are not paired over entries, and intervals know how many each entry has; where trunks lie and how many documents
# are decoded side by side changes results by rounding alone. `max_tokens` is what virtual tokens leave of
# protocol.max_tokens, and counts. All else must be equal.
MAY_DIFFER = (
    "protocol.seed", "protocol.seeds", "protocol.worth", "protocol.budget", "protocol.trunk_cache",
    "protocol.max_tokens", "generation.batch_size",
)  # fmt: skip
MACHINE = ("processor", "cores", "gpu", "torch", "bakeoff")
LIBRARIES = ("bakeoff", "torch", "transformers", "peft", "bitsandbytes", "tokenizers")  # that results may depend on
HELD_EQUAL = (
    "model.identity", "data.identity", "template", "max_tokens", "output_tokens", "precision", "protocol", "tune",
    "generation", "metrics", "primary", "score_signature", "verdict.unit",
)  # fmt: skip
OTHERS = {"model.identity": "the bases are not the same", "data.identity": "the examples are not the same"}


def summarize_together(folders: Sequence[Folder], documents: Sequence[Document]) -> Document:
    """Return one results document over the entries of all bakeoffs.

    A name that occurs twice gets the name of its bakeoff in front. `documents` are the bakeoffs' results. Raises
    SetupError, which says what differs, if two bakeoffs cannot be compared.
    """
    names, plans = new_names(folders, documents), [folder.plan() for folder in folders]
    for folder, document in zip(folders[1:], documents[1:], strict=True):
        refuse_other(folders[0], documents[0], folder, document)
    clusters = drawn_together(folders, plans)
    rows: dict[str, ResultsRow] = {}
    runs: dict[str, tuple[Folder, PlanDocument, list[Run]]] = {}
    for place, (folder, plan, document, renamed) in enumerate(zip(folders, plans, documents, names, strict=True)):
        for name, row in document.rows.items():
            known = rows.get(renamed[name])
            if known is None or (known.status != "done" and row.status == "done"):  # a baseline is one in all
                rows[renamed[name]] = row.model_copy(update={"place": place})  # in whose folder its runs lie
                runs[renamed[name]] = folder, plan, [run for run in plan.runs if run.id in row.runs]
    rows = with_forgetting(rows)
    scores = {}
    for name, (folder, plan, group) in runs.items():
        results = {run.id: folder.result(run.id, plan) for run in group}
        if sum(bool(result and result.status == "done") for result in results.values()) != rows[name].seeds:
            raise SetupError(f"{folder.path}: its runs changed while they were read. Try: bakeoff report again")
        scores[name] = read_scores(folder, plan, group, results) if group else {}
    by_metric = {(n, metric): s for n, table in scores.items() for metric, s in table.items()}
    estimates = estimate(by_metric, Resamples(clusters))
    by, rounds = yardstick(plans[0], planned_config(folders[0], plans[0])), None
    if plans[0].looks:
        facts_of = [document.verdict.rounds for document in documents]
        seeds = {renamed[n]: count for renamed, facts in zip(names, facts_of, strict=True) if facts
                 for n, count in facts.seeds.items()}  # fmt: skip
        rounds = joined(plans[0].looks, seeds, scores, clusters, by.metric)
    statuses = {document.status for document in documents}
    return documents[0].model_copy(
        update={
            "name": " + ".join(labels(folders, documents)),
            "status": statuses.pop() if len(statuses) == 1 else "incomplete",
            "entries": {n: row for n, row in rows.items() if row.kind == "entry"},
            "baselines": {n: row for n, row in rows.items() if row.kind == "baseline"},
            "verdict": make_verdict(
                {n: row for n, row in rows.items() if row.status != "not run"}, estimates, by, rounds
            ),
            "environment": environments(documents),
            "notes": notes(folders, documents),
            "not_held_equal": list(not_held_equal(documents)),
        }
    )


def refuse_other(first: Folder, one: Document, second: Folder, other: Document) -> None:
    """Raise SetupError if two bakeoffs did not hold the same things equal."""
    mine, theirs = facts(one), facts(other)
    differing = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    if differing:
        shown = "; ".join(OTHERS.get(key, f"{key}: {mine.get(key)!r} and {theirs.get(key)!r}") for key in differing[:3])
        hint = "Try: bakeoff report for each; one table can only have entries for which the same was held equal"
        if {*differing} & OTHERS.keys():
            hint = "Try: --over tasks, if they have the same entries"
        if differing == ["max_tokens"]:
            longer = first if mine["max_tokens"] > theirs["max_tokens"] else second
            hint = (
                f"A soft prompt takes its virtual tokens from all entries' texts. Try: {longer.path} again with "
                f"protocol.max_tokens lowered by {abs(mine['max_tokens'] - theirs['max_tokens'])}"
            )
        raise SetupError(f"{second.path}: cannot be compared with {first.path}: {shown}. {hint}")


def drawn_together(folders: Sequence[Folder], plans: Sequence[PlanDocument]) -> list[str]:
    """Return what each test example is drawn together with in all of the bakeoffs.

    Raises SetupError where one of them groups the examples otherwise, or scores outputs by other code.
    """
    pairs = list(zip(folders, plans, strict=True))
    clusters = [read_clusters(folder, plan, planned_config(folder, plan)) for folder, plan in pairs]
    for (folder, plan), own in zip(pairs, clusters, strict=True):
        what = None
        if numbered(own) != numbered(clusters[0]):
            what = "data.group puts other test examples together"
        elif plan.scoring != plans[0].scoring:
            what = "metrics of the same names have other code"
        elif plan.looks != plans[0].looks:
            what = "protocol.seeds has other rounds, and p values hold only over the looks that were planned"
        if what:
            raise SetupError(
                f"{folder.path}: cannot be compared with {folders[0].path}: {what}. Try: bakeoff run of one with this "
                f"setting of the other; nothing is trained again"
            )
    return clusters[0]


def numbered(names: Sequence[str]) -> list[int]:
    """Return names as numbers in the order of their first occurrence."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def facts(document: Document) -> dict[str, Any]:
    """Return what a bakeoff held equal, under dotted keys."""
    facts: dict[str, Any] = {}
    values = document.row()
    for key in HELD_EQUAL:
        section, _, name = key.partition(".")
        value = values[section][name] if name else values[section]
        facts |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in facts.items() if key not in MAY_DIFFER}


def labels(folders: Sequence[Folder], documents: Sequence[Document]) -> list[str]:
    """Return the names of the bakeoffs, or of their folders if two bakeoffs have the same name."""
    for found in ([d.name for d in documents], [f.path.resolve().name for f in folders]):
        if len(set(found)) == len(found):
            return found
    return [str(folder.path) for folder in folders]


def new_names(folders: Sequence[Folder], documents: Sequence[Document]) -> list[dict[str, str]]:
    """Return the names of each bakeoff's rows in the comparison; an entry may have the name of another's baseline."""
    uses = Counter(name for document in documents for name in document.entries)
    uses.update({name for document in documents for name in document.baselines})
    return [
        {n: f"{label}/{n}" if uses[n] > 1 else n for n in document.entries} | {n: n for n in document.baselines}
        for label, document in zip(labels(folders, documents), documents, strict=True)
    ]


def environments(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the environment; if bakeoffs differ in a value, a list of all. The date is that of the last bakeoff."""
    keys = dict.fromkeys(key for document in documents for key in document.environment)
    values = {k: list(dict.fromkeys(document.environment.get(k) for document in documents)) for k in keys}
    merged = {key: found[0] if len(found) == 1 else found for key, found in values.items()}
    return merged | ({"date": max(filter(None, values["date"]))} if any(values.get("date", [])) else {})


def notes(folders: Sequence[Folder], documents: Sequence[Document]) -> list[str]:
    """Return what a reader must know about a comparison whose entries did not run in one bakeoff."""
    counts = zip(labels(folders, documents), (len(d.entries) for d in documents), strict=True)
    lines = [f"Entries of {len(documents)} bakeoffs, judged together: {', '.join(f'{n} ({c})' for n, c in counts)}."]
    lines += [
        f"Not held equal: {setting} ({' and '.join(map(str, values))})."
        for setting, values in not_held_equal(documents).items()
    ]
    differing = [k for k in MACHINE if len({d.environment.get(k) for d in documents}) > 1]
    if differing:
        lines.append(f"They differ in {', '.join(differing)}, so times and memory compare only within each.")
    versions = {k: list(dict.fromkeys(str(d.environment.get(k)) for d in documents)) for k in LIBRARIES}
    others = [f"{name} ({' and '.join(found)})" for name, found in versions.items() if len(found) > 1]
    if others:
        lines.append(f"They were made with different versions of {', '.join(others)}, which may change results.")
    return lines


def not_held_equal(documents: Sequence[Document]) -> dict[str, list[Any]]:
    """Return the settings in which the compared bakeoffs differ, with their values."""
    by_setting, sections = {}, [document.row() for document in documents]
    for setting in MAY_DIFFER:
        section, _, key = setting.partition(".")
        values = [document[section][key] for document in sections]
        by_setting[setting] = [value for i, value in enumerate(values) if value not in values[:i]]
    return {setting: values for setting, values in by_setting.items() if len(values) > 1}
