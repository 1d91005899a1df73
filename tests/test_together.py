"""One page over several bakeoffs: entries judged together, and refused where something was not held equal."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from bakeoff.analysis.comparison import summarize_together
from bakeoff.cli.main import main
from bakeoff.errors import SetupError
from bakeoff.report.facts import held_equal
from bakeoff.report.source import Source
from bakeoff.store.files import write_json, write_jsonl
from bakeoff.store.run_folder import Folder

pytestmark = pytest.mark.usefixtures("figures")


def changed(document, section, **values):
    """Return results with other values in one section."""
    before = getattr(document, section)
    new = before | values if isinstance(before, dict) else before.model_copy(update=values)
    return document.model_copy(update={section: new})


@pytest.fixture
def two(shared, tmp_path):
    """The finished bakeoff, and a copy that has one of its entries under another name."""
    document = shared[1].document
    shutil.copytree(shared[1].folder.path, tmp_path / "second")
    entries = {"lora": document.entries["lora"], "other": document.entries["last_layers"]}
    document = document.model_copy(update={"name": "second", "entries": entries})
    write_json(tmp_path / "second/results.json", document.row())
    return [shared[1].folder, Folder(tmp_path / "second")], [shared[1].document, document]


def test_a_page_of_several_shows_as_held_equal_what_was(two):
    folders, (one, other) = two
    merged = summarize_together(folders, [one, other])
    assert dict(held_equal(merged))["seeds"] == "0"
    other = changed(changed(other, "protocol", seed=7, seeds=3), "generation", batch_size=5)
    for documents in ([one, other], [other, one]):
        merged = summarize_together(folders, documents)
        facts = dict(held_equal(merged))
        assert "seeds" not in facts
        assert "side by side" not in facts["decoding"]
        assert "batches" not in facts["decoding"]
        told = [line for line in merged.notes if line.startswith("Not held equal")]
        assert [line.split()[3] for line in told] == ["protocol.seed", "protocol.seeds", "generation.batch_size"]


def test_entries_of_several_bakeoffs_are_judged_together(two):
    folders, documents = two
    merged = summarize_together(folders, documents)
    assert list(merged.entries) == ["prompt_tuning", "last_layers", "shared/lora", "second/lora", "other"]
    assert list(merged.baselines) == list(documents[0].baselines)
    assert len(merged.verdict.pairs) == 10
    same = next(p for p in merged.verdict.pairs if {p.first, p.second} == {"shared/lora", "second/lora"})
    assert same.difference == 0
    assert not same.different
    alone = {frozenset((p.first, p.second)): p for p in documents[0].verdict.pairs}
    again = next(p for p in merged.verdict.pairs if {p.first, p.second} == {"prompt_tuning", "last_layers"})
    own = alone[frozenset(("prompt_tuning", "last_layers"))]
    assert (again.low, again.high, again.p) == (own.low, own.high, own.p)
    assert "shared (3), second (2)" in merged.notes[0]


def test_the_page_of_methods_is_of_one_or_of_several_bakeoffs(two, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "tools")
    page = import_module("methods_page").page
    folders, documents = two
    several, one = page(summarize_together(folders, documents), folders), page(documents[0], folders[:1])
    assert f"methods_page.py {folders[0].path} {folders[1].path}`" in several
    assert "Entries of 2 bakeoffs, judged together" in several
    assert "judged together" not in one
    for name, text in (("second/lora", several), ("other", several), ("lora", one), ("*base*", one)):
        assert f"\n| {name} | 0." in text


def test_the_command_writes_one_page_over_them(two, tmp_path):
    page = tmp_path / "pages/both.html"
    done = CliRunner().invoke(main, ["report", *(str(f.path) for f in two[0]), "-o", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "Entries of 2 bakeoffs, judged together" in text
    assert text.count("<article") == 10
    assert (tmp_path / "pages/both-figures/rougeL-against-trainable.svg").exists()
    assert 'href="both-figures/' in text


def test_a_bakeoff_is_not_compared_with_itself(two, tmp_path):
    one = two[0][0].path
    done = CliRunner().invoke(main, ["report", str(one), f"{one}/../{one.name}", "-o", str(tmp_path / "same.html")])
    assert done.exit_code == 2
    assert "the folder is given twice. Try: each folder once" in done.output
    assert not (tmp_path / "same.html").exists()


def test_a_folder_of_the_users_is_no_place_for_figures(two, tmp_path):
    (tmp_path / "both-figures").mkdir()
    (tmp_path / "both-figures/photo.svg").write_text("mine")
    command = ["report", *(str(f.path) for f in two[0]), "-o", str(tmp_path / "both.html")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "both-figures: contains other files" in done.output
    assert not (tmp_path / "both.html").exists()
    (tmp_path / "both-figures/photo.svg").unlink()
    for _ in range(2):
        assert CliRunner().invoke(main, command).exit_code == 0
        (tmp_path / "both-figures/photo.svg").write_text("mine")
    assert (tmp_path / "both-figures/photo.svg").read_text() == "mine"
    (tmp_path / "notes.html").write_text("mine")
    done = CliRunner().invoke(main, [*command[:-1], str(tmp_path / "notes.html")])
    assert done.exit_code == 2
    assert "notes.html: exists, and bakeoff did not write it" in done.output
    assert (tmp_path / "notes.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("data", "identity", "other", "the examples are not the same. Try: --over tasks"),
        ("protocol", "epochs", 9, "protocol.epochs: 2 and 9"),
        ("model", "identity", "another", "the bases are not the same. Try: --over tasks"),
        ("generation", "precision", "bf16", "generation.precision"),
    ],
)
def test_what_was_not_held_equal_is_refused_with_the_reason(two, section, key, value, said):
    folders, documents = two
    documents[1] = changed(documents[1], section, **{key: value})
    with pytest.raises(SetupError, match=said):
        summarize_together(folders, documents)


def test_a_soft_prompt_beside_only_one_of_them_is_said_to_be_the_reason(two):
    folders, documents = two
    shorter = documents[0].max_tokens - 6
    documents[1] = documents[1].model_copy(update={"max_tokens": shorter})
    with pytest.raises(SetupError, match=f"Try: {folders[0].path} again with protocol.max_tokens lowered by 6$"):
        summarize_together(folders, documents)
    with pytest.raises(SetupError, match=f"Try: {folders[0].path} again with protocol.max_tokens lowered by 6$"):
        summarize_together(folders[::-1], documents[::-1])
    documents[0] = changed(documents[0], "protocol", max_tokens=documents[0].protocol["max_tokens"] - 6)
    documents[0] = documents[0].model_copy(update={"max_tokens": shorter})
    assert summarize_together(folders, documents).max_tokens == shorter


def test_seeds_may_differ_and_machines_are_named(two):
    folders, documents = two
    documents[1] = changed(documents[1], "protocol", seeds=3)
    documents[1] = changed(documents[1], "environment", processor="a faster one")
    merged = summarize_together(folders, documents)
    assert "They differ in processor, so times and memory compare only within each." in merged.notes
    assert "Not held equal: protocol.seeds (1 and 3)." in merged.notes
    assert merged.environment["processor"][1] == "a faster one"
    assert not any("different versions" in note for note in merged.notes)


def test_other_versions_of_what_results_depend_on_are_named(two):
    folders, documents = two
    mine = documents[0].environment["peft"]
    documents[1] = changed(documents[1], "environment", peft="0.1", python="3.0")
    note = f"They were made with different versions of peft ({mine} and 0.1), which may change results."
    assert note in summarize_together(folders, documents).notes


def test_a_page_never_lands_in_a_bakeoffs_own_folder(two, tmp_path):
    folders = [str(f.path) for f in two[0]]
    linked = Path(folders[1], "linked.html")
    linked.symlink_to(tmp_path / "elsewhere.html")
    try:
        for page in (f"{folders[1]}/report.html", str(linked)):
            done = CliRunner().invoke(main, ["report", *folders, "-o", page])
            assert done.exit_code == 2
            assert "is inside a run folder" in done.output
    finally:
        linked.unlink()


@pytest.mark.parametrize("name", ["", ".", "/", "..", "loop.html", "loop.html/page.html"])
def test_what_is_no_name_of_a_page_is_one_line(two, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.html").symlink_to("loop.html")
    before = sorted(tmp_path.iterdir())
    for folders in (two[0][:1], two[0]):
        done = CliRunner().invoke(main, ["report", *(str(f.path) for f in folders), "-o", name])
        if name != "loop.html":  # which the page replaces: nothing is there to lose
            assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
            assert sorted(tmp_path.iterdir()) == before


def test_a_page_reads_each_run_in_its_own_folder_and_one_that_never_started_in_none(two, tmp_path):
    """Equal run ids in two folders are two runs, and a planned run without a folder is no fault."""
    folders, documents = two
    run = documents[0].entries["lora"].runs[0]
    merged = summarize_together(folders, documents)
    source = Source.of(folders, merged)
    for name, folder in (("shared/lora", folders[0]), ("second/lora", folders[1])):
        assert [files.path for files in source.files(merged.entries[name])] == [folder.run(run).path]
    shutil.rmtree(folders[1].run(run).path)
    assert source.predictions(merged.entries["second/lora"]) == []
    assert source.predictions(merged.entries["shared/lora"])
    assert {row["entry"] for row in source.curve_rows()} == {"prompt_tuning", "last_layers", "shared/lora", "other"}


def test_a_run_that_begins_or_ends_meanwhile_is_one_line(copied, two):
    folders, documents = [two[0][0], copied], [two[1][0], two[1][0]]
    copied.run(documents[1].entries["lora"].runs[0]).set_aside()
    with pytest.raises(SetupError, match="copy: its runs changed while they were read. Try: bakeoff report again"):
        summarize_together(folders, documents)


def test_other_groups_and_metrics_of_other_code_under_the_same_names_are_refused(copied, two):
    """Which documents are drawn together, and which code scores, must be one for all: both stand in no setting."""
    folders, documents = [two[0][0], copied], [two[1][0], two[1][0]]
    assert summarize_together(folders, documents).entries
    plan = copied.plan().row()
    write_json(copied.plan_file, plan | {"scoring": "other"})
    with pytest.raises(SetupError, match="metrics of the same names have other code"):
        summarize_together(folders, documents)
    write_json(copied.plan_file, plan)
    rows = list(copied.examples("test"))
    write_jsonl(copied.examples_file("test"), [row.row() | {"document": rows[0].document} for row in rows])
    for order in (folders, folders[::-1]):
        with pytest.raises(SetupError, match="data.group puts other test examples together"):
            summarize_together(order, documents)
