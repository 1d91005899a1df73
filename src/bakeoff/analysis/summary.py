"""Results: turns the records of a bakeoff's runs into results.json, which every view (terminal, report, CSV) reads."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy

from bakeoff.analysis.alone import costs_alone, pace_alone
from bakeoff.analysis.convergence import converged
from bakeoff.analysis.money import price_of, priced
from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.preference_words import in_short
from bakeoff.analysis.replay import in_rounds, leading, replay
from bakeoff.analysis.round_budget import OverBudget, next_round, over_budget
from bakeoff.analysis.rounds import Rounds
from bakeoff.analysis.statistics import Estimate, Resamples, Scores, estimate
from bakeoff.analysis.tasting import preferences
from bakeoff.analysis.trials import tuning
from bakeoff.analysis.verdict import make_verdict
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.config.config import Config
from bakeoff.config.lr_schedule import schedule_of
from bakeoff.config.planned import planned_config
from bakeoff.config.stages import TRIALS, TuneConfig
from bakeoff.data.examples import Example
from bakeoff.data.forms import chat_of
from bakeoff.errors import SetupError
from bakeoff.scoring.baselines import takes_model
from bakeoff.scoring.forgetting import with_forgetting
from bakeoff.scoring.metrics import value_of
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.predictions import read_columns
from bakeoff.store.records import Run, RunResult
from bakeoff.store.results_document import MeanScore, ResultsDocument, ResultsRow
from bakeoff.store.run_folder import Folder
from bakeoff.store.schema import SCHEMA

COUNTED = ("trainable_parameters", "total_parameters", "learning_rate", "steps", "best_step")  # of one run, not means
OF_ENTRIES = ("tuning", "converged", "improved")  # null for baselines


def summarize(folder: Folder) -> ResultsDocument:
    """Return the content of results.json from the runs that have finished so far.

    Scores are means over seeds; 95 % intervals are over source documents and seeds (see `statistics`).
    """
    plan = folder.plan()
    config = planned_config(folder, plan)
    if plan.data_fingerprint not in (None, folder.made().get("data_fingerprint")):
        raise SetupError(f"{folder.path}: its examples do not match its plan. Try: bakeoff run again")
    results = {run.id: folder.result(run.id, plan) for run in plan.runs if run.kind != "trial"}
    groups: dict[str, list[Run]] = {}
    for run in plan.runs:
        if run.id in results:
            groups.setdefault(run.entry, []).append(run)
    scores = {n: read_scores(folder, plan, group, results) for n, group in groups.items()}
    clusters, rounds = read_clusters(folder, plan, config), None
    if plan.looks:
        levels = {name: scores[name] for name, group in groups.items() if group[0].kind == "baseline"}
        rounds = rounds_so_far(folder, plan, config, clusters, levels)
        groups |= {n: groups[n][:seeds] for n, seeds in needed(rounds, config).items()}
        scores |= {n: read_scores(folder, plan, groups[n], results) for n in rounds.counts}
    every = {(n, metric): s for n, table in scores.items() for metric, s in table.items()}
    estimates = estimate(every, Resamples(clusters))
    by_name = {n: {metric: estimates[n, metric] for metric in table} for n, table in scores.items()}
    rows = {name: entry_row(folder, plan, config, group, results, by_name[name]) for name, group in groups.items()}
    price = price_of(config, folder.environment())
    for name in plan.entries.keys() & rows.keys() if price and price.hour else ():
        finals = [r for run in groups[name] if (r := results[run.id]) and r.status == "done"]
        trials = [r for run in folder.trials(name, plan) if (r := folder.run(run.id).result())]
        rows[name] = priced(rows[name], price, finals, trials)
    rows = with_forgetting(rows | {name: not_run_row(name, reason) for name, reason in plan.not_run.items()})
    compared = {name: row for name, row in rows.items() if row.status != "not run"}
    tasted = preferences(folder, plan, rows, clusters)
    over = ended_by(folder, plan, config, rounds, results) if rounds else None
    verdict = make_verdict(compared, estimates, yardstick(plan, config), rounds, over.budget if over else None)
    if tasted:
        verdict = verdict.model_copy(update={"text": " ".join([verdict.text, *in_short(tasted)])})
    return ResultsDocument(
        schema_version=SCHEMA, name=plan.name, status=status_of(compared),
        **setting_of(plan, config),
        entries={n: row for n, row in rows.items() if row.kind == "entry"},
        baselines={n: rows[n] for n in (*config.baselines, *rows) if n in rows and rows[n].kind == "baseline"},
        verdict=verdict,
        preferences=tasted,
        price=price,
        environment=folder.environment(),
        records=folder.content_hash(),
    )  # fmt: skip


def status_of(rows: Mapping[str, ResultsRow]) -> Literal["done", "failed", "incomplete"]:
    """Return how far a bakeoff has come whose runs have come as far as their `rows` say."""
    statuses = {row.status for row in rows.values()}
    return "done" if statuses == {"done"} else "failed" if statuses == {"failed"} else "incomplete"


def setting_of(plan: PlanDocument, config: Config) -> dict[str, Any]:
    """Return what results.json holds of a bakeoff's base, data and protocol."""
    return {
        "model": plan.model, "data": plan.data, "precision": plan.precision, "max_tokens": plan.max_tokens,
        "output_tokens": plan.output_tokens, "template": plan.template, "metrics": plan.metrics,
        "primary": plan.primary, "score_signature": plan.score_signature,
        "protocol": config.protocol.model_dump(), "generation": config.generation.model_dump(),
        "tune": tuning_of(plan, config.tune),
        "chat": {**chat_of(config).model_dump(), "turns": config.data.conversation} if plan.chat else None,
    }  # fmt: skip


def tuning_of(plan: PlanDocument, tune: TuneConfig | None) -> dict[str, Any] | None:
    """Return how settings were searched, with the number of trials that a budget in steps held."""
    if tune is None:
        return None
    trials = max(entry.trials for entry in plan.entries.values()) or tune.trials or TRIALS
    return tune.model_dump(exclude={"budget"}) | {"trials": trials}


def needed(rounds: Rounds, config: Config) -> dict[str, int]:
    """Return how many final runs of each entry belong to the results: those of the next look, too, if it may come.

    A budget may have ended the rounds after any look.
    """
    ended = config.protocol.budget is not None and bool(rounds.taken)
    return {name: count if ended else rounds.seen_with(name) for name, count in rounds.counts.items()}


def ended_by(
    folder: Folder, plan: PlanDocument, config: Config, rounds: Rounds, results: Mapping[str, RunResult | None]
) -> OverBudget | None:
    """Return the budget that has ended the rounds, if one has."""
    wanted = next_round(plan, rounds.wanted if rounds.taken else {})
    left = [run for run in wanted if (result := results[run.id]) is None or result.status != "done"]
    return over_budget(folder, plan, left, config.protocol.budget)


def rounds_so_far(
    folder: Folder, plan: PlanDocument, config: Config, clusters: list[str], levels: dict[str, dict[str, Scores]]
) -> Rounds:
    """Return the rounds of a plan with looks, by the records that are there; `levels` are the scores of baselines."""
    results = {run.id: folder.result(run.id, plan) for run in plan.runs if run.kind == "entry"}
    groups = {name: leading(group, results) for name, group in in_rounds(plan, results).items()}
    scores = {name: read_scores(folder, plan, group, results) for name, group in groups.items() if group}
    by = yardstick(plan, config)
    scores |= {name: {} for name in groups if name not in scores}
    return replay(plan.looks, list(groups), scores | levels, clusters, by.metric, by.worth)


def read_clusters(folder: Folder, plan: PlanDocument, config: Config) -> list[str]:
    """Return the cluster of each test example, (examples,): its group, or its document. A bootstrap draws clusters.

    Rows with the same source text are one cluster, because they are not independent evidence. Groups count only if the
    config names their column: the packages of the docstring task are too few per test split to be resampled.
    """
    examples = (Example.from_row(row.row()) for row in folder.examples("test"))
    clusters = [(example.group if config.data.group else example.source).strip() for example in examples]
    if len(clusters) != plan.data.splits.test.examples:
        raise SetupError(f"{folder.examples_file('test')}: not as many rows as planned. Try: bakeoff run again")
    return clusters


def yardstick(plan: PlanDocument, config: Config) -> Yardstick:
    """Return the score that entries are ranked by."""
    measure = plan.ranked_by
    unit, worth = "groups" if config.data.group else "documents", config.protocol.worth
    scale = 100 if measure.bounded else 1
    return Yardstick(measure.name, measure.heading, measure.bounded, unit, None if worth is None else worth / scale)


def entry_row(
    folder: Folder, plan: PlanDocument, config: Config, group: list[Run], results: dict[str, RunResult | None],
    estimates: dict[str, Estimate],
) -> ResultsRow:  # fmt: skip
    """Return one entry's or baseline's row: status, counts, metrics with intervals, costs averaged over its seeds."""
    done = [r for run in group if (r := results[run.id]) and r.status == "done"]
    failed = [r for run in group if (r := results[run.id]) and r.status == "failed"]
    ended = [*done, *failed]
    settings = (ended[0].run if ended else group[0]).settings
    row: dict[str, Any] = {
        "kind": group[0].kind,
        "method": group[0].method,
        "settings": settings,
        "quantize": group[0].quantize if group[0].kind == "entry" or takes_model(group[0].method) else None,
        "status": "failed" if failed else "done" if len(done) == len(group) else "unfinished",
        "error": failed[0].error if failed else None,
        "seeds": len(done),
        "runs": [run.id for run in group],
        "beside": max((r.beside for r in done), default=0),
        "timed_alone": pace_alone(done) is not None,
        "metrics": metrics(done, estimates) if done else {},
        "costs": averages([costs_alone(r, pace_alone(done)) for r in done]),
        "checks": {k: all(r.checks[k] for r in ended if k in r.checks) for r in ended for k in r.checks},
        "check_notes": {
            k: note if len(group) == 1 else f"seed {r.run.seed}: {note}"
            for r in reversed(ended)  # so that the first run's note stays
            for k, note in r.check_notes.items()
        },
        "instruction": done[0].instruction if done else None,
        **{name: getattr(done[0], name) if done else settings.get(name) for name in COUNTED},
    }
    row |= dict.fromkeys(OF_ENTRIES)
    if group[0].kind == "entry":
        row |= of_entry(folder, plan, config, group, done) | failures(folder, plan, group, results)
        row["costs"]["tuning_seconds"] = row["tuning"].seconds
    planned = dict(plan.entries[group[0].entry]) if group[0].entry in plan.entries else {}
    return ResultsRow(**{**row, **{k: v for k, v in planned.items() if row.get(k) is None}})


def of_entry(
    folder: Folder, plan: PlanDocument, config: Config, group: list[Run], done: list[RunResult]
) -> dict[str, Any]:
    """Return the OF_ENTRIES of one entry: how its settings were chosen, and whether training converged and helped."""
    optimizer = done[0].run.settings.get("optimizer", "adamw") if done else "adamw"
    protocol, curves = schedule_of(optimizer, config.protocol), [folder.run(r.run.id).curve() for r in done]
    return {
        "tuning": tuning(folder, plan, group[0].entry, [run.id for run in group], pace_alone(done)),
        "converged": converged(curves, protocol, group[0].steps or 0),
        "improved": all(r.best_step != 0 for r in done) if done else None,
        "fresh_loss": fresh_loss(done),
    }


def failures(
    folder: Folder, plan: PlanDocument, group: list[Run], results: dict[str, RunResult | None]
) -> dict[str, int]:
    """Return how many trainings of an entry have begun, and how many diverged; an adopted trial is no second one."""
    trials = [folder.run(trial.id).result() for trial in folder.trials(group[0].entry, plan)]
    ended = [r for r in [*trials, *(results[run.id] for run in group)] if r and not r.run.adopts]
    return {"diverged": sum(r.cause == "diverged" for r in ended), "trainings": len(ended)}


def fresh_loss(done: list[RunResult]) -> float | None:
    """Return the mean validation loss of final runs, without the one that adopts a trial if there are others."""
    fresh = [r for r in done if not r.run.adopts] or done
    return averages([{"loss": r.metrics.get("validation/loss")} for r in fresh]).get("loss")


def not_run_row(name: str, reason: str) -> ResultsRow:
    """Return the row of a baseline that cannot be run here: it has no measurements, and did not fail."""
    nothing: dict[str, Any] = dict.fromkeys((*COUNTED, *OF_ENTRIES))
    return ResultsRow(
        kind="baseline", method=name, settings={}, quantize=None, status="not run", error=reason, seeds=0, runs=[],
        metrics={}, costs={}, checks={}, check_notes={}, **nothing,
    )  # fmt: skip


def metrics(done: list[RunResult], estimates: dict[str, Estimate]) -> dict[str, MeanScore]:
    """Return the mean of each metric over the seeds, under split/name; a metric with an estimate has its interval."""
    table = {n: MeanScore(mean=v) for n, v in averages([r.metrics for r in done]).items() if v is not None}
    for name, score in estimates.items():
        span = score.interval()
        ends = dict(zip(("low", "high"), span, strict=True)) if span else {}
        table[name] = MeanScore(mean=score.value, **ends)
    return table


def read_scores(
    folder: Folder, plan: PlanDocument, group: list[Run], results: dict[str, RunResult | None]
) -> dict[str, Scores]:
    """Return the scores of each test example with each of an entry's finished seeds, by metric.

    Raises SetupError if a file of a run is damaged.
    """
    done = [folder.run(run.id) for run in group if (r := results[run.id]) and r.status == "done"]
    for files in done:
        files.check()
    tables = [read_columns(files.predictions_file) for files in done]
    planned = plan.data.splits.test.examples
    for files, columns in zip(done, tables, strict=True):
        if len(columns.get("id", ())) != planned or columns.keys() != tables[0].keys():
            raise SetupError(f"{files.predictions_file}: not as many rows as planned. Try: bakeoff run again")
    if not tables:
        return {}
    seeded = group[0].kind == "entry"
    first, ones = tables[0], numpy.ones(planned)
    bounds = {m.name: (0, 1) if m.bounded else (-numpy.inf, numpy.inf) for m in plan.metrics}
    bounds |= {f"{name}_max": span for name, span in bounds.items()}
    scores = {
        f"test/{name}": Scores(numpy.array([list(map(value_of, t[name])) for t in tables], float), ones, seeded, span)
        for name, span in bounds.items()
        if name in first
    }
    if "loss" in first:
        losses = numpy.array([columns["loss"] for columns in tables], dtype=float)
        tokens = numpy.array(first["tokens"], dtype=float)
        scores[LOSS] = Scores(losses, tokens, seeded, (0, numpy.inf))
    return scores


def averages(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of every key over rows; None if it is missing or not measured in a row."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns: dict[str, list[Any]] = {key: [row.get(key) for row in rows] for key in keys}
    return {key: None if None in column else float(numpy.mean(column)) for key, column in columns.items()}
