"""The page, the CSV and the Markdown table, from a finished bakeoff, a broken one and a hostile one."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from rich.console import Console

import bakeoff
from bakeoff.analysis.columns import columns
from bakeoff.analysis.remarks import remarks
from bakeoff.analysis.table import escape_markdown, text_table
from bakeoff.errors import SetupError
from bakeoff.report.source import Source
from bakeoff.report.writing import write_report
from bakeoff.reporting import refresh_report
from bakeoff.store.checksums import read_mapping, unsealed
from bakeoff.store.files import write_json, write_jsonl
from bakeoff.store.results_document import Price, ResultsDocument, stored_results
from bakeoff.store.run_folder import Folder

pytestmark = pytest.mark.usefixtures("figures")

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert('x')</script> & \"quoted\" | *star* `tick`"


class Page(HTMLParser):
    """Collects what a page loads, its table's cells and whether its tags nest."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.verdict = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in {"src", "href", "srcset", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.verdict += data if "header" in self.open else ""
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data + "\n"


def written(folder: Folder) -> ResultsDocument:
    return stored_results(unsealed(read_mapping(folder.results_file)))


def page_of(folder: Folder) -> tuple[str, Page]:
    text = refresh_report(folder.path).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_holds_every_figure_and_loads_nothing(copied):
    text, page = page_of(copied)
    results = written(copied)
    table, differences = page.rows[:8], page.rows[8:]
    assert [re.sub(r"\n.*", "", row[0], flags=re.S) for row in table] == [
        "entry", "prompt_tuning", "last_layers", "lora", "base", "few-shot-2", "lead-1", "oracle",
    ]  # fmt: skip
    assert f"{results.entries['lora'].metrics['test/loss'].mean:.3f}" in page.rows[3][1]
    assert all(len(row) == 1 + len(columns(results)) for row in table)
    assert len(differences) == 1 + 3 + 3 * 3  # a heading, every two entries, every entry with each baseline
    pair = results.verdict.pairs[0]
    assert differences[1][0].strip() == f"{pair.first} \N{MINUS SIGN} {pair.second}"
    assert f"{100 * pair.low:.1f} to {100 * pair.high:.1f}" in differences[1][1]
    assert all(f">for {word}</span><b>" in text for word in ("quality", "memory", "size", "time"))
    assert all(load.startswith(("data:text/csv", "#", "figures/")) for load in page.loads)
    assert all((copied.path / load).exists() for load in page.loads if load.startswith("figures/"))
    assert page.tags.count("script") == 1
    assert "http" not in text
    drawings = 4 * 4 + 3 + 2 + 5  # axes, curves, differences, costs
    assert text.count('class="drawing"') == drawings
    assert len(list(copied.figures.glob("*.svg"))) == len(list(copied.figures.glob("*.csv"))) == drawings
    assert len(text) < 1_500_000
    assert results.verdict.headline in page.verdict


def test_a_report_removes_its_own_figures_and_nothing_else(copied):
    (copied.figures / "notes.csv").write_text("mine")
    (copied.path / "notes.csv").write_text("mine")
    named = json.loads((copied.figures / ".figures.json").read_text())
    (copied.figures / ".figures.json").write_text(json.dumps({"files": [*named["files"], "old.svg", "../notes.csv"]}))
    (copied.figures / "old.svg").write_text("of an earlier report")
    refresh_report(copied.path)
    assert not (copied.figures / "old.svg").exists()
    assert (copied.figures / "notes.csv").read_text() == (copied.path / "notes.csv").read_text() == "mine"
    assert json.loads((copied.figures / ".figures.json").read_text()) == named


def test_csv_and_markdown_agree_with_the_results(copied):
    write_report(copied.path)
    results = written(copied)
    rows = {row["entry"]: row for row in csv.DictReader(io.StringIO(copied.csv_file.read_text()))}
    assert list(rows) == [*results.entries, *results.baselines]
    for name, row in results.entries.items():
        assert float(rows[name]["test/rougeL"]) == row.metrics["test/rougeL"].mean
        assert float(rows[name]["test/loss/high"]) == row.metrics["test/loss"].high
        assert int(rows[name]["trainable_parameters"]) == row.trainable_parameters
    assert rows["lead-1"]["test/loss"] == ""
    lines = [line for line in copied.markdown_file.read_text().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(columns(results)) + 2}


def test_the_same_records_give_the_same_files(copied):
    files = (copied.report_file, copied.csv_file, copied.markdown_file, copied.figures / "rougeL-against-peak.svg")
    refresh_report(copied.path)
    first = [f.read_bytes() for f in files]
    refresh_report(copied.path)
    assert [f.read_bytes() for f in files] == first


def test_failed_and_missing_runs_are_rows_that_say_so(copied):
    failed, missing = (next(r for r in copied.runs() if r.entry == e) for e in ("lora", "last_layers"))
    result = copied.run(failed.id).result()
    result.status, result.error = "failed", f"it broke: {HOSTILE}"
    copied.run(failed.id).write_result(result)
    shutil.rmtree(copied.run(missing.id).path)
    text, page = page_of(copied)
    rows = {row[0].split("\n")[0]: row for row in page.rows}
    assert "failed: it broke: <script>" in rows["lora"][1]
    assert "unfinished" in rows["last_layers"][1]
    assert page.tags.count("script") == 1
    assert text.count('aria-label="Loss of') == 2  # the failed run's curve stays
    results = written(copied)
    assert not Source.of([copied], results).predictions(results.entries["lora"])  # what it left has no part
    with pytest.raises(SetupError, match="entry 'lora' has no finished run"):
        bakeoff.load_results(copied.path).entry("lora").predictions()
    assert "Not in this comparison: last_layers (unfinished) and lora (failed)" in text
    assert "it broke" in copied.csv_file.read_text()
    (line,) = (line for line in copied.markdown_file.read_text().splitlines() if line.startswith("| lora |"))
    assert line.count("failed") == 1
    assert "0.01" in line  # its learning rate
    assert "lora failed: it broke" in copied.markdown_file.read_text()


def test_training_that_never_improved_is_said_everywhere(copied):
    run = next(r for r in copied.runs() if r.entry == "lora")
    result = copied.run(run.id).result()
    result.best_step = 0
    copied.run(run.id).write_result(result)
    text, _ = page_of(copied)
    remark = "lora: training never improved on the start; try another learning_rate"
    assert remark in text
    assert remark in copied.markdown_file.read_text().replace("\\", "")
    assert f"not better: {remark}" in remarks(written(copied))


def test_a_bakeoff_without_any_result_has_a_page(copied):
    shutil.rmtree(copied.path / "runs")
    text, _ = page_of(copied)
    assert "No entry has finished" in text
    assert 'class="drawing"' not in text
    assert "No run has written outputs yet." in text


def test_texts_of_users_are_shown_and_never_read_as_markup(copied):
    examples = [json.loads(line) for line in copied.examples_file("test").read_text().splitlines()]
    write_jsonl(copied.examples_file("test"), [{**e, "document": HOSTILE, "summary": HOSTILE} for e in examples])
    run = copied.run(next(r.id for r in copied.runs() if r.entry == "lora"))
    write_jsonl(run.predictions_file, [row.row() | {"output": HOSTILE} for row in run.predictions()])
    run.write_result(run.result())
    plan = copied.plan().row()
    next(m for m in plan["metrics"] if m["name"] == plan["primary"])["heading"] = HOSTILE
    write_json(copied.plan_file, plan)
    text, page = page_of(copied)
    assert page.tags.count("script") == 1
    assert text.count("&lt;script&gt;") >= 3 * 8
    assert escape_markdown("a|b\n*c*") == r"a\|b \*c\*"


def test_rows_of_one_source_document_are_one_piece_of_evidence(copied):
    rows = [json.loads(line) for line in copied.examples_file("test").read_text().splitlines()]
    write_jsonl(copied.examples_file("test"), [{**r, "document": f"text {i % 3}"} for i, r in enumerate(rows)])
    page_of(copied)
    assert written(copied).verdict.documents == 3
    write_jsonl(copied.examples_file("test"), [{**r, "document": "the same"} for r in rows])
    text, _ = page_of(copied)
    results = written(copied)
    assert "One test document cannot tell entries apart" in text
    assert results.entries["lora"].metrics["test/rougeL"].low is None
    assert results.verdict.pairs[0].p_adjusted is None


def test_several_seeds_and_one_entry(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2}}
    results = bakeoff.run(tiny_config, {"protocol.seeds": 2, "protocol.epochs": 1}, display="none")
    text = results.folder.report_file.read_text()
    assert text.count('class="drawing"') == 4 * 4 + 1 + 1 + 5  # a single entry has pairs with the baselines only
    assert results.entries["lora"].seeds == 2
    assert results.document.verdict.covers == "documents and two seeds"
    assert "seeds</dt><dd>0, 1</dd>" in text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SetupError, match="no results.json"):
        write_report(tmp_path)


def test_a_column_measured_nowhere_is_not_the_best(shared):
    unknown = {"peak_bytes": None}
    entries = {n: row.model_copy(update={"costs": row.costs | unknown}) for n, row in shared[1].entries.items()}
    results = shared[1].document.model_copy(update={"entries": entries})
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system="standard")
    console.print(text_table(results, 300))
    assert "not measured" in console.file.getvalue()
    assert not re.search(r"\x1b\[1m *not measured", console.file.getvalue())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 150, 160, 185, 200])
def test_no_value_of_the_table_is_cut(shared, width):
    price = Price(currency="EUR", hour=0.1, device="machine")
    rows = {
        name: row.model_copy(update={"quantize": "nf4", "costs": row.costs | {"price": 8.8e-5, "tuning_price": 1e-3}})
        for name, row in shared[1].entries.items()
    }
    results = shared[1].document.model_copy(update={"entries": rows, "price": price})
    console = Console(file=io.StringIO(), width=width)
    console.print(text_table(results, width))
    printed = console.file.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    for row in rows.values():
        assert f" {row.metrics['test/loss'].mean:.3f} " in printed
    assert ("0.000088 EUR" in printed) == (width >= 100)
    names = {line.split()[0] for line in printed.splitlines() if line.strip()}
    assert len(printed.splitlines()) <= len(results.rows) + 4  # no value in two lines
    assert {*results.rows} <= names
