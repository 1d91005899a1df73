"""Whatever state a bakeoff is in, it has a summary, and a headline's numbers are those of the pair that it names."""

import json
import re
import shutil
from dataclasses import asdict, replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bakeoff.analysis.comparison import summarize_together
from bakeoff.analysis.convergence import converged
from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.preferences import PREFERENCES
from bakeoff.analysis.statistics import Resamples, Scores, estimate
from bakeoff.analysis.summary import COUNTED, OF_ENTRIES, summarize
from bakeoff.analysis.table import csv_table, markdown_table, text_table
from bakeoff.analysis.verdict import make_verdict
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.report.cards import write_cards
from bakeoff.report.differences import choices, difference_rows, recommendation
from bakeoff.report.facts import sections
from bakeoff.store.documents import CurveRow
from bakeoff.store.files import write_json, write_jsonl
from bakeoff.store.results_document import ResultsDocument, ResultsRow
from bakeoff.store.run_folder import Folder

BY = Yardstick()
LEVELS, NOISES = st.sampled_from([0.0, 0.2, 0.25, 0.6]), st.sampled_from([0.0, 0.01, 0.3])
one_entry = st.tuples(
    st.sampled_from(["done", "done", "done", "failed", "unfinished"]), st.integers(1, 4), LEVELS, NOISES, NOISES
)


def table_of(entries, documents, baselines, with_loss):
    """Return rows and scores of entries a, b ..., each with seeds, mean, and noise over documents and over seeds."""
    generator = numpy.random.default_rng(len(entries) + documents)
    everything = [*zip("abcdef", entries, strict=False), *zip(("base", "oracle"), baselines, strict=False)]
    rows, scores = {}, {}
    for name, (status, seeds, level, noise, spread) in everything:
        entry = len(name) == 1
        rows[name] = ResultsRow(
            kind="entry" if entry else "baseline", method="lora" if entry else "base", status=status, settings={},
            error=None, seeds=seeds, runs=[], metrics={}, costs={"adapter_bytes": seeds}, checks={}, check_notes={},
            **dict.fromkeys((*COUNTED, *OF_ENTRIES)),
        )  # fmt: skip
        if status == "unfinished" or (status == "failed" and seeds == 1):
            continue
        size = (seeds if entry else 1, documents)
        values = level + noise * generator.random(size) + spread * generator.random((size[0], 1))
        scores[name, BY.metric] = Scores(values, numpy.ones(documents), entry, (0, 1))
        if with_loss:
            scores[name, LOSS] = Scores(values * 7, numpy.full(documents, 7.0), entry)
    return rows, estimate(scores, Resamples(range(documents), resamples=200))


@settings(max_examples=40, deadline=None)
@given(st.lists(one_entry, max_size=5), st.sampled_from([1, 2, 9]), st.lists(one_entry, max_size=2), st.booleans())
def test_a_headlines_numbers_are_those_of_the_pair_it_names(shared, entries, documents, baselines, with_loss):
    rows, estimates = table_of(entries, documents, baselines, with_loss)
    verdict = make_verdict(rows, estimates, BY)
    found = {n: r for n, r in rows.items() if r.kind == "entry"}
    results = shared[1].document.model_copy(update={"verdict": verdict, "entries": found})
    json.dumps(verdict.row(), allow_nan=False)
    assert len(difference_rows(verdict)) == len(verdict.pairs) + len(verdict.baseline_pairs)
    assert len(choices(results)) == len(PREFERENCES)
    best = verdict.best
    if best is None:
        with pytest.raises(SetupError, match="no entry has finished"):
            recommendation(results, "size")
        return
    mine = {pair.second: pair for pair in verdict.pairs if pair.first == best}
    # Every entry that has finished is tied with the best or said to be behind it.
    done = {n for n, row in rows.items() if row.kind == "entry" and row.status == "done"}
    assert {best, *mine} == done
    headline = verdict.headline
    if not mine or documents == 1:
        assert not any(name in headline for name in (" above ", " tied "))
        return
    if found := re.search(r" points \(95 % interval (\S+) to (\S+)\) above (\w)\.$", headline):
        pair, numbers = mine[found[3]], found.group(1, 2)
        assert all(other.different for other in mine.values())
        assert pair.difference == min(other.difference for other in mine.values())
    elif found := re.match(r"(\w) and (\w) are tied .*, 95 % interval (\S+) to ([^;).]+\.\d)", headline):
        pair, numbers = mine[found[2]], found.group(3, 4)
        assert found[1] == best
        assert [name for name, other in mine.items() if not other.different] == [found[2]]
    else:
        most = re.search(r"differences from (\w) of at most (\S+) points", headline)
        tied = [other.difference for other in mine.values() if not other.different]
        assert most.groups() == (best, BY.shown(max(tied)))
        return
    assert numbers == (BY.shown(pair.low), BY.shown(pair.high))
    assert f" {BY.shown(pair.difference)}" in headline


@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(0, 10)), max_size=6),
    st.sampled_from(["linear", "cosine", "constant"]),
)
def test_a_curve_of_any_length_tells_of_convergence_or_nothing(points, schedule):
    curve = [CurveRow(step=step, epoch=1.0, seconds=0.0, validation_loss=loss) for step, loss in sorted(points)]
    found = converged([curve, []], ProtocolConfig(schedule=schedule), 40)
    assert found in (None, True, False)
    assert converged([curve[-1:]], ProtocolConfig(schedule=schedule), 40) is None


def test_a_curve_with_its_last_validation_alone_tells_nothing():
    assert converged([[CurveRow(step=40, epoch=1.0, seconds=0.0, validation_loss=2.0)]], ProtocolConfig(), 40) is None


class Laboratory:
    """A finished bakeoff whose runs can be put into any state; each entry has two seeds here."""

    def __init__(self, source, path):
        self.folder = Folder(shutil.copytree(source, path))
        self.results = {run.id: self.folder.run(run.id).result() for run in self.folder.runs()}
        self.predictions = {i: self.folder.run(i).predictions() for i in self.results}
        plan = self.folder.plan().row()
        self.runs = []
        for run in self.folder.runs():
            again = [replace(run, id=f"{run.id}-2", seed=run.seed + 1)] if run.kind == "entry" else []
            self.runs += [(run.id, each) for each in (run, *again)]
        write_json(self.folder.plan_file, plan | {"runs": [asdict(run) for _, run in self.runs]})

    def put(self, states):
        """Put each run into one of the states done, equal, failed and waiting."""
        for number, ((source, run), state) in enumerate(zip(self.runs, states, strict=True)):
            files, record = self.folder.run(run.id), replace(self.results[source], run=run)
            files.path.mkdir(exist_ok=True)
            files.result_file.unlink(missing_ok=True)
            if state == "failed":
                files.write_result(
                    replace(record, status="failed", error="out of memory", metrics={}, costs={}, checks={})
                )
            elif state != "waiting":
                rows = [row.row() for row in self.predictions[source]]
                for row in rows:
                    row["rougeL"] = dict.fromkeys("prf", 0.5) if state == "equal" else row["rougeL"]
                    row |= {"loss": row["loss"] * (1 + number / 100)} if "loss" in row else {}
                write_jsonl(files.predictions_file, rows)
                files.write_result(record)


@pytest.fixture(scope="module")
def laboratory(shared, tmp_path_factory):
    return Laboratory(shared[1].folder.path, tmp_path_factory.mktemp("states") / "other")


def shown(folder, results):
    """Let every view of the results but the page be made."""
    json.dumps(results.row(), allow_nan=False)
    text_table(results)
    sections(results)
    choices(results)
    if folder:
        write_cards(folder, results)
    return markdown_table(results) + csv_table(results)


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_no_state_of_runs_is_without_a_summary(laboratory, shared, data):
    states = data.draw(st.lists(st.sampled_from(["done", "equal", "failed", "waiting"]), min_size=len(laboratory.runs),
                                max_size=len(laboratory.runs)))  # fmt: skip
    laboratory.put(states)
    results = summarize(laboratory.folder)
    shown(laboratory.folder, results)
    kinds = {"done" if state == "equal" else state for state in states}
    assert results.status == (kinds.pop() if kinds in ({"done"}, {"failed"}) else "incomplete")
    for order in (1, -1):
        folders = [laboratory.folder, shared[1].folder][::order]
        merged = summarize_together(folders, [results, shared[1].document][::order])
        shown(None, merged)
        assert {row.status for row in merged.baselines.values()} == {"done"}  # they are, in one of the two
        assert "neutral/forgetting" in merged.entries["out/lora"].metrics


def test_interrupted_before_the_first_run_ends_is_unfinished_and_not_failed(laboratory):
    laboratory.put(["waiting"] * len(laboratory.runs))
    results = summarize(laboratory.folder)
    assert {row.status for row in results.entries.values()} == {"unfinished"}
    assert results.status == "incomplete"
    laboratory.put(["failed"] * len(laboratory.runs))
    assert summarize(laboratory.folder).status == "failed"


def test_a_baseline_that_is_done_in_the_second_folder_alone_is_the_seconds(laboratory, shared):
    laboratory.put(["waiting" if run.kind == "baseline" else "done" for _, run in laboratory.runs])
    results = summarize(laboratory.folder)
    assert results.baselines["lead-1"].status == "unfinished"
    for order in (1, -1):
        folders, documents = [laboratory.folder, shared[1].folder], [results, shared[1].document]
        merged = summarize_together(folders[::order], documents[::order])
        assert {name: row.status for name, row in merged.baselines.items()} == dict.fromkeys(
            shared[1].document.baselines, "done"
        )
        assert {pair.second for pair in merged.verdict.baseline_pairs} == {"base", "few-shot-2", "lead-1"}
        forgetting = {"neutral/forgetting" in row.metrics for row in merged.entries.values()}
        assert forgetting == {True}, "the second folder's base serves the first's entries"


def test_an_entry_named_as_another_bakeoffs_baseline_keeps_its_own_row(laboratory, shared):
    laboratory.put(["done"] * len(laboratory.runs))
    document = shared[1].document.row()
    document["entries"]["lead-1"] = document["entries"].pop("lora")
    del document["baselines"]["lead-1"]
    document = ResultsDocument.model_validate(document)
    results = summarize(laboratory.folder)
    for order in (1, -1):
        folders, documents = [laboratory.folder, shared[1].folder], [results, document]
        merged = summarize_together(folders[::order], documents[::order])
        assert merged.baselines["lead-1"].kind == "baseline"
        assert merged.entries["out/lead-1"].kind == "entry"
