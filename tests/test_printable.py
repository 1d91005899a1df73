"""Names, headings and notes of anybody: no view of them obeys what stands in them, and none breaks."""

import csv
import io
import re
import shutil
import unicodedata
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from bakeoff.analysis.columns import columns
from bakeoff.analysis.remarks import failures
from bakeoff.analysis.table import csv_table, markdown_table, text_table
from bakeoff.cli.main import main
from bakeoff.errors import BakeoffError, did_you_mean, printable
from bakeoff.progress.open import open_display
from bakeoff.report.charts.bars import cost_bar
from bakeoff.report.figures import Axes, Figures
from bakeoff.report.notebook import notebook_html
from bakeoff.report.page import render
from bakeoff.report.plan import plan_lines, plan_table
from bakeoff.report.source import Source
from bakeoff.results import Results, load_results
from bakeoff.store.events import Failed, State
from bakeoff.store.files import write_json
from bakeoff.store.plan_document import Span
from bakeoff.store.records import Run
from bakeoff.store.results_document import ResultsDocument, TrialRow

pytestmark = pytest.mark.usefixtures("figures")

NASTY = ("\x1b[31mred", "[bold]x[/]", "[/nothing]", "=1+1", "\t=1", "\r@x", "\x00", "\ud800", "a\u202eb", "a\nb", "]]>",
         "<script>", "`|*", "\x9b2J", "</svg>", "{{ 7*7 }}", "\\")  # fmt: skip
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=12))
ALLOWED = "\u200c\u200d"


def quiet(text: str, keep: str = "\n") -> bool:
    """Return whether a text holds nothing that a terminal obeys."""
    return all(c in keep or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp", "Cf") or c in ALLOWED for c in text)


def printed(*things: object) -> str:
    """Return what a terminal of 300 columns is sent, without colours of our own."""
    console = Console(file=io.StringIO(), width=300, color_system=None)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def renamed(document: ResultsDocument, name: str, heading: str, note: str) -> ResultsDocument:
    """Return results whose first entry, ranked score, bakeoff and failure have texts of somebody else."""
    (old, row), *others = document.entries.items()

    def new(entry):
        return name if entry == old else entry

    def pairs(found):
        return [pair.model_copy(update={"first": new(pair.first), "second": new(pair.second)}) for pair in found]

    verdict = document.verdict
    verdict = verdict.model_copy(
        update={
            "best": new(verdict.best), "tied_with_best": [*map(new, verdict.tied_with_best)],
            "recommendations": {k: new(n) for k, n in verdict.recommendations.items()},
            "pairs": pairs(verdict.pairs), "baseline_pairs": pairs(verdict.baseline_pairs),
            "text": note, "headline": note, "heading": heading,
        }
    )  # fmt: skip
    row = row.model_copy(update={"check_notes": {"loss_finite": note}, "checks": {"loss_finite": False}})
    lead = document.baselines["lead-1"].model_copy(update={"status": "failed", "error": note})
    ranked = {document.primary: {"heading": heading}}
    return document.model_copy(
        update={
            "name": name, "score_signature": note, "notes": [note], "verdict": verdict,
            "entries": {name: row} | dict(others), "baselines": document.baselines | {"lead-1": lead},
            "metrics": [m.model_copy(update=ranked.get(m.name, {})) for m in document.metrics],
        }
    )  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=TEXTS, heading=TEXTS, note=TEXTS)
def test_any_name_heading_and_note_goes_through_every_view(shared, name, heading, note):
    if name in shared[1].entries | shared[1].document.baselines:
        return
    results = renamed(shared[1].document, name, heading, note)
    shown = printed(text_table(results, 300)) + "".join(map(printable, failures(results)))
    assert quiet(shown)
    assert re.sub(r"\s", "", printable(heading)) in re.sub(r"\s", "", shown)
    plan = shared[1].folder.plan()
    plan = plan.model_copy(update={"entries": {name: plan.entries["lora"]}, "not_run": {name: note}})
    assert quiet(printed(plan_table(plan)) + "".join(map(printable, plan_lines(plan))))
    assert quiet(str(Results(shared[1].folder, results)))
    source = Source.of([shared[1].folder], results)
    clean = source.results
    assert quiet(markdown_table(clean), "\n\r\t")
    rows = list(csv.reader(io.StringIO(csv_table(clean), newline="")))
    assert len({len(row) for row in rows}) == 1
    assert not any(cell.startswith(("=", "+", "@", "\t", "\n")) for row in rows for cell in row)
    page = render(source, Figures(Axes([], [], {}), [], [], [], [], [], [], []), "figures")
    page.encode()
    assert page.count("<script") == 1
    assert quiet(page, "\n\r\t")
    bars = cost_bar(clean, next(c for c in columns(clean) if c.key == "trainable_parameters"))
    ElementTree.fromstring(bars.file)
    assert quiet(bars.file)


def test_a_long_name_of_characters_beyond_16_bits_is_drawn(shared):
    """Vega cuts a label that is too long, and may do so between the two halves of one."""
    results = Source.of([], renamed(shared[1].document, "\U0001f600" * 60, "heading", "note")).results
    bars = cost_bar(results, next(c for c in columns(results) if c.key == "trainable_parameters"))
    ElementTree.fromstring(bars.file)


def test_a_control_character_does_not_end_the_process_inside_the_chart_library(copied):
    results = renamed(load_results(copied.path).document, "a\x1b[2Jb\x00", "h\x07\x1b]0;x\x07", "n\x1b")
    figure = cost_bar(results, next(c for c in columns(results) if c.key == "trainable_parameters"))
    assert r"a\x1b[2Jb\x00" in figure.svg
    assert quiet(notebook_html(results))


def test_markup_in_a_strangers_folder_is_shown_by_show(copied):
    plan = copied.plan().row()
    next(m for m in plan["metrics"] if m["name"] == plan["primary"])["heading"] = "[/nothing]\x1b[31m"
    write_json(copied.plan_file, plan)
    shown = CliRunner().invoke(main, ["show", str(copied.path)])
    assert shown.exit_code == 0, shown.output
    assert r"[/nothing]\x1b[31m" in shown.stdout
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_notes_and_errors_of_a_watched_bakeoff_are_not_obeyed(kind, capsys):
    run = Run("a", "e\x1b[1m", "entry", "lora\x07", {}, 0)
    console = Console(file=io.StringIO(), width=160, height=20, color_system=None, force_terminal=False)
    with open_display(kind, [run], console=console) as screen:
        screen.note("read\x1b]0;title\x07 this")
        screen.handle(State(run="a", state="tr\x1b[2J"))
        screen.handle(Failed(run="a", error="it\x1b[8m broke [/x]"))
        if kind == "live":
            console.print(screen.render())
    said = console.file.getvalue() + capsys.readouterr().err
    assert r"it\x1b[8m broke [/x]" in said
    assert r"read\x1b]0;title\x07 this" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_searched_fields_name_stays_in_the_figures_folder(copied, monkeypatch):
    results = load_results(copied.path).document
    row = results.entries["lora"]
    field = "../../../../outside/x"
    trial = TrialRow(trial=1, run="a", settings={field: 128}, validation_loss=2.0, steps=3, status="done", error=None)
    tuning = {"chosen": {field: 128}, "trials": [trial], "edge": {}, "extended": None}
    search = {field: Span(low=1, high=9, scale="log")}
    row = row.model_copy(update={"search": search, "tuning": row.tuning.model_copy(update=tuning)})
    results = results.model_copy(update={"entries": {"lora": row}})
    from bakeoff.report.charts.sweep import sweeps

    (figure,) = sweeps(results)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", figure.name)
    assert f"{field} 128: " in figure.label  # a whole number is no power of ten
    assert not shutil.os.path.exists(copied.path.parent / "outside")


def test_a_message_says_what_helps_of_12000_columns():
    names = [f"column {i} {'x' * 7}" for i in range(12_000)]
    assert "and 11,980 more" in did_you_mean("nothing like it", names)
    assert len(did_you_mean("nothing like it", names)) < 1_000
    message = str(BakeoffError(f"data.csv:1: {', '.join(names)}. Try: another file"))
    assert message.startswith("data.csv:1: column 0 ")
    assert message.endswith(". Try: another file")
    assert len(message) < 2_100
