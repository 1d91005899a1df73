"""A bakeoff's folder: what is another's is left alone, what is its own is gone on with."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import bakeoff
from bakeoff import api, reporting
from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.driver.resume import check_free
from bakeoff.errors import SetupError
from bakeoff.export.folder import check_place
from bakeoff.report.figures import MANIFEST
from bakeoff.store.checksums import read_mapping
from bakeoff.store.files import write_json
from bakeoff.store.grid_folder import GridFolder
from bakeoff.store.ownership import begin, claim, discard
from bakeoff.store.run_folder import Folder

pytestmark = pytest.mark.usefixtures("figures")


def test_a_finished_bakeoff_is_not_run_again(shared, copied):
    config, results = shared
    times = {p: p.stat().st_mtime_ns for p in copied.path.glob("runs/*/result.json")}
    again = bakeoff.run({**config, "output": str(copied.path)}, display="none")
    assert {p: p.stat().st_mtime_ns for p in copied.path.glob("runs/*/result.json")} == times
    assert again.document == results.document


def test_a_folder_of_something_else_is_left_alone(shared, tmp_path):
    config, results = shared
    with pytest.raises(SetupError, match="contains another bakeoff, 'shared'"):
        bakeoff.run(config, {"name": "other"}, display="none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(SetupError, match="contains other files"):
        bakeoff.run({**config, "output": str(tmp_path / "other")}, display="none")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(SetupError, match="not a run folder of bakeoff"):
        bakeoff.load_results(tmp_path)


@pytest.mark.parametrize("place", ["runs/mine", "mine", "export/mine"])
@pytest.mark.parametrize("through", [".", "link"])
def test_nothing_of_anothers_is_made_inside_a_run_folder(copied, tiny_config, tmp_path, through, place):
    (tmp_path / "link").symlink_to(copied.path)
    path = tmp_path / "link" / place if through == "link" else copied.path / place
    before = sorted(copied.path.rglob("*"))
    for made in (
        lambda: bakeoff.run({**tiny_config, "output": str(path)}, display="none"),
        lambda: GridFolder(path).check_free(),
        lambda: check_place(path, force=True),
    ):
        with pytest.raises(SetupError, match=f"{path}: is inside a run folder, {copied.path.resolve()}, which"):
            made()
    assert sorted(copied.path.rglob("*")) == before


@pytest.mark.parametrize("text", ["", '{"name": "sha', '{"name": "shared"}'])
@pytest.mark.parametrize("command", ["show", "report", "watch"])
def test_a_damaged_plan_is_said_to_be_damaged_and_not_missing(copied, command, text):
    copied.plan_file.write_text(text)
    done = CliRunner().invoke(main, [command, str(copied.path)])
    assert done.exit_code == 2
    assert done.stderr == f"bakeoff: {copied.plan_file}: damaged (not a plan). Try: bakeoff run again\n"


@pytest.mark.parametrize("plan", ['{"format_version": "1.2", "name": "shared"}', "[1]", '{"model": "x", "data": 1}'])
def test_another_programs_plan_makes_no_folder_a_bakeoffs(tiny_config, tmp_path, plan):
    words = tiny_config | {"output": "."}
    (tmp_path / "plan.json").write_text(plan)
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(SetupError, match="contains other files"):
        bakeoff.run({**words, "output": str(tmp_path)}, display="none")
    with pytest.raises(SetupError, match="not a run folder of bakeoff"):
        bakeoff.load_results(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**words, "output": str(tmp_path / "there")}))
    assert api.read_config(tmp_path / "config.yaml", None).output == str(tmp_path / "there")
    (tmp_path / ".lock").touch()  # another program's, too
    if plan[0] == "{":
        with pytest.raises(SetupError, match="contains other files"):
            bakeoff.run({**words, "output": str(tmp_path)}, display="none")
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_a_folder_at_work_is_left_to_its_process(shared):
    from bakeoff.store.lock import locked

    config, results = shared
    with (
        locked(results.folder.lock_file),
        pytest.raises(SetupError, match=rf"is running in this folder: process {os.getpid()} on "),
    ):
        bakeoff.run(config, display="none")


def test_a_users_own_config_is_never_replaced(tiny_config, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    text = f"# my notes\n{yaml.safe_dump({**tiny_config, 'output': str(folder)})}"
    (folder / "config.yaml").write_text(text)
    with pytest.raises(SetupError, match="contains other files"):
        bakeoff.run(folder / "config.yaml", display="none")
    assert (folder / "config.yaml").read_text() == text
    with pytest.raises(SetupError, match="is a file"):
        bakeoff.run({**tiny_config, "output": str(folder / "config.yaml")}, display="none")


def test_what_a_bakeoff_left_before_it_had_a_plan_is_taken_over(tiny_config):
    folder, config = Folder(tiny_config["output"]), load_config(tiny_config)
    begin(folder)
    for file in (folder.lock_file, folder.tokens_file("train")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("other: config")
    check_free(folder, config)
    for name in ("data/train.jsonl", "config.yaml", "runs/mine", "notes.txt"):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("mine")
        with pytest.raises(SetupError, match="contains other files"):
            check_free(folder, config)
        with pytest.raises(SetupError, match="contains other files"):
            claim(folder, None)
        discard(folder)
        assert (folder.path / name).read_text() == "mine"
        (folder.path / name).unlink()
    (folder.path / "runs").rmdir()
    begin(folder)
    discard(folder)
    assert not folder.path.exists()
    folder.path.mkdir()
    begin(folder)
    discard(folder)
    assert folder.path.exists()  # it was somebody's, though empty


LAYOUT = [".lock", ".bakeoff", "config.yaml", "plan.json", "environment.json", "events.jsonl", "results.json",
          "results.csv", "report.html", "data/train.jsonl", "data/test.tokens.bin", "data/made.json",
          "figures/a.svg", "figures/.figures.json", "runs/a/result.json", "runs/a/checkpoints/0.safetensors",
          "trunk/train-1-fp32.bin", "notes.txt", ".results.json.1.tmp"]  # fmt: skip


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=st.dictionaries(
        st.sampled_from(LAYOUT), st.sampled_from(["", "mine", "{}", "[1]", '{"name": "tiny"}']), min_size=1
    ),
    planned=st.booleans(),
)
def test_a_users_files_survive_every_command_byte_for_byte(tiny_config, files, planned):
    """Whatever they are called, in a folder that no bakeoff made: also where the plan then fails."""
    with TemporaryDirectory() as there:
        for name, text in files.items():
            (Path(there, name)).parent.mkdir(parents=True, exist_ok=True)
            Path(there, name).write_text(text)
        config = {**tiny_config, "output": there} | ({} if planned else {"entries": ["no_such_method"]})
        file = Path(tiny_config["output"]).with_name("c.yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(config))
        before = content(Path(there))
        for command in ("run", "show", "report", "watch", "generate"):
            words = [command, str(file if command == "run" else there)]
            assert CliRunner().invoke(main, words, input="ba be").exit_code == 2
            assert content(Path(there)) == before


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_users_files_in_a_run_folder_stay(shared, copied):
    """Beside bakeoff's own, in any of its folders: nothing but names of the layout is ever removed."""
    config, results = shared
    run = copied.run(results.entries["lora"].runs[0])
    mine = [copied.path / "notes.txt", copied.path / "data/mine.jsonl", copied.figures / "mine.svg",
            copied.trunk / "mine.bin", copied.trunk / "a.tmp", run.path / "mine.txt", run.adapter / "mine.txt",
            run.checkpoints / "mine.safetensors", run.checkpoints / ".mine.tmp",
            copied.runs_folder / "mine/result.json", copied.path / ".mine.1.tmp"]  # fmt: skip
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    run.result_file.unlink()
    left = [copied.path / ".results.json.999999999.tmp", run.path / ".metrics.jsonl.999999999-0123abcd.tmp"]
    for file in left:
        file.touch()
    again = bakeoff.run({**config, "output": str(copied.path)}, {"trackers": []}, display="none")
    assert again.entries["lora"].metrics == results.entries["lora"].metrics
    assert [file.read_text() for file in mine] == ["mine"] * len(mine)
    assert not any(file.exists() for file in left)  # of bakeoff's own, which was killed while it wrote


@pytest.mark.parametrize("name", ["figures", "runs", "data", "trunk", "events.jsonl", "results.csv", "ADAPTER", "log"])
def test_nothing_is_written_through_a_link_in_a_run_folder(shared, copied, tmp_path, name):
    config, results = shared
    run = copied.run(results.entries["lora"].runs[0])
    path = {"ADAPTER": run.adapter, "log": run.log_file}.get(name, copied.path / name)
    elsewhere = tmp_path / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.mkdir()
    path.symlink_to(elsewhere)
    before = content(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    with pytest.raises(SetupError, match="is a link"):
        reporting.refresh_report(copied.path)
    with pytest.raises(SetupError, match="is a link"):
        bakeoff.run({**config, "output": str(copied.path)}, {"protocol.epochs": 1}, display="none")
    assert (content(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


def test_a_run_folder_behind_a_link_works(shared, copied, tmp_path):
    config, results = shared
    (tmp_path / "link").symlink_to(copied.path)
    (copied.path / "notes").symlink_to(tmp_path)  # no name of bakeoff's
    assert bakeoff.run({**config, "output": str(tmp_path / "link")}, display="none").document == results.document


def test_a_run_folders_own_config_goes_on_there(shared, copied, monkeypatch):
    config, results = shared
    monkeypatch.chdir(copied.path)
    assert bakeoff.run("config.yaml", display="none").document == results.document
    assert not Path("bakeoffs").exists()


def test_a_bakeoff_that_cannot_be_planned_leaves_nothing(tiny_config):
    with pytest.raises(bakeoff.BakeoffError, match="unknown method"):
        bakeoff.run({**tiny_config, "entries": ["no_such_method"]}, display="none")
    with pytest.raises(bakeoff.BakeoffError, match="no room for the document"):
        bakeoff.run(tiny_config, {"generation.max_new_tokens": 60}, display="none")
    assert not Path(tiny_config["output"]).parent.exists()


def test_what_is_damaged_is_made_anew_or_named(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2, "learning_rate": 0.01}}
    tiny_config["baselines"] = ["base", "lead-1"]
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    first, folder = results.document, results.folder
    folder.results_file.write_text("{")
    assert bakeoff.load_results(folder.path).document == first
    lora = folder.run(first.entries["lora"].runs[0])
    lead = folder.run(first.baselines["lead-1"].runs[0])
    whole = lead.predictions_file.read_text()
    flipped = whole.replace('"f": 0.', '"f": 1.', 1)  # still JSON
    assert flipped != whole
    for damage in (whole[:-20], whole[:50] + "\n" + whole[51:], whole[: whole.index("\n") + 1], flipped):
        lead.predictions_file.write_text(damage)
        with pytest.raises(SetupError, match=r"predictions.jsonl:.*Try: bakeoff run again$") as caught:
            bakeoff.load_results(folder.path)
        assert "\n" not in str(caught.value)
    for file in lora.adapter.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(SetupError, match="safetensors: damaged or missing. Try: bakeoff run again"):
        results.entry("lora").load()
    again = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert lead.predictions_file.read_text() == whole
    assert again.entries["lora"].metrics == first.entries["lora"].metrics
    assert again.entry("lora").adapter == lora.adapter


def test_all_files_have_the_rights_that_the_umask_leaves(shared):
    mask = os.umask(0)
    os.umask(mask)
    files = [file for file in shared[1].folder.path.rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}
    assert any(file.suffix == ".safetensors" for file in files)


def test_a_path_that_is_no_utf8_is_refused_before_anything_is_written(tiny_config, tmp_path):
    folder = tmp_path / "caf\udce9"
    for call in (bakeoff.plan, bakeoff.run):
        with pytest.raises(SetupError, match="the path is not UTF-8"):
            call({**tiny_config, "output": str(folder)})
    assert not folder.exists()


def test_a_page_over_several_bakeoffs_replaces_no_file_of_a_users(shared, copied, tmp_path):
    page = tmp_path / "pages/both.html"
    folders = [shared[1].folder.path, copied.path]
    config = yaml.safe_load(copied.config_file.read_text())
    copied.config_file.write_text(yaml.safe_dump(config))
    reporting.compare(folders, page)
    reporting.compare(folders, page)
    page.write_text("mine")
    with pytest.raises(SetupError, match="was edited since bakeoff wrote it"):
        reporting.compare(folders, page)
    assert page.read_text() == "mine"
    page.unlink()
    figures = tmp_path / "pages/both-figures"
    names = read_mapping(figures / MANIFEST)["files"]
    write_json(figures / MANIFEST, {"files": names[1:]})
    (figures / names[0]).write_text("mine")
    with pytest.raises(SetupError, match="exists, and bakeoff did not write it"):
        reporting.compare(folders, page)
    assert (figures / names[0]).read_text() == "mine"


def test_nothing_is_written_through_a_hard_link_in_a_run_folder(shared, copied, tmp_path):
    """A folder from elsewhere may hold one to a file of the user's; what is appended goes to a copy."""
    config, results = shared
    run = copied.run(results.entries["lora"].runs[0])
    run.result_file.unlink()
    run.log_file.touch()
    trackers = copied.path / "trackers.log"
    trackers.write_text("mine")
    adapter = next(run.adapter.glob("*.safetensors"))
    places = [
        copied.events_file,
        copied.lock_file,
        run.log_file,
        trackers,
        adapter,
        run.adapter / "adapter_config.json",
    ]
    for number, place in enumerate(places):
        place.chmod(0o600)
        os.link(place, tmp_path / f"mine-{number}")
    before = content(tmp_path)
    wanted = {tmp_path / f"mine-{number}": before[tmp_path / f"mine-{number}"] for number in range(len(places))}
    bakeoff.run({**config, "output": str(copied.path)}, {"trackers": ["tensorboard"]}, display="none")
    assert {path: path.read_bytes() for path in wanted} == wanted
    assert {path.stat().st_mode & 0o777 for path in wanted} == {0o600}
    assert len(copied.events_file.read_text()) > len(wanted[tmp_path / "mine-0"])
