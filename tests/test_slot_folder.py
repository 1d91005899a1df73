"""A slot's own files: whoever was cut off writes where nobody reads, whatever it does and whenever."""

import os
import random
from contextlib import suppress

import pytest

from bakeoff.driver import slot_folder
from bakeoff.driver.slot_folder import SlotFolder, take_back_all
from bakeoff.errors import SetupError
from bakeoff.store.files import append_jsonl, write_json, write_jsonl
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import Folder

RUN = Run("lora-1", "lora", "entry", "lora", {}, 0, steps=6)


def checkpoint(files, step, text):
    """Write a checkpoint as a run does, and remove the older ones but one."""
    files.checkpoints.mkdir(parents=True, exist_ok=True)
    temporary = files.checkpoints / ".77.tmp"
    temporary.write_text(text)
    temporary.replace(files.checkpoints / f"{step:09d}-{step:064x}.safetensors")
    for old in sorted(files.checkpoints.glob("*.safetensors"))[:-2]:
        old.unlink()


def work(place, fails=False):
    """Do what a run does to its files, and pause after each step; it continues from its newest checkpoint."""
    files = Folder(place).run(RUN.id)
    rows = [{"step": s, "epoch": 1.0, "seconds": 1.0} for s in range(1, 7)]
    there = sorted(files.checkpoints.glob("*.safetensors"))
    begun = int(there[-1].name[:9]) if there else 0
    write_jsonl(files.metrics_file, rows[:begun])
    for row in rows[begun:]:
        yield
        append_jsonl(files.metrics_file, row)
        yield
        checkpoint(files, row["step"], f"weights of step {row['step']}")
    files.adapter.mkdir(exist_ok=True)
    with (files.adapter / "adapter_model.safetensors").open("w") as file:  # as PEFT writes it: into what is there
        file.write("weights ")
        file.flush()
        yield
        file.write("of the best step")
    yield
    write_jsonl(files.predictions_file, [{"id": "a", "output": "b"}])
    yield
    if fails:
        files.write_result(RunResult(RUN, "failed", error="the disk was gone for a moment"))
    else:
        files.write_result(RunResult(RUN, "done", metrics={"validation/loss": 1.0}))


def advance(attempts, chosen):
    """Let some of the attempts that are cut off take a step; what they fail by is nobody's matter."""
    for attempt in attempts:
        if chosen.random() < 0.5:
            with suppress(OSError):
                next(attempt, None)


@pytest.fixture
def folder(tmp_path):
    """A bakeoff's folder with a run that is to be carried out."""
    folder = Folder(tmp_path / "out")
    write_json(folder.run(RUN.id).run_file, {"id": RUN.id})
    return folder


def content(folder):
    """Return the content of a run's files by name."""
    place = folder.run(RUN.id).path
    return {str(f.relative_to(place)): f.read_text() for f in sorted(place.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("seed", range(40))
def test_attempts_that_are_cut_off_at_any_moment_and_go_on_change_nothing(folder, tmp_path, seed):
    whole = Folder(tmp_path / "undisturbed")
    write_json(whole.run(RUN.id).run_file, {"id": RUN.id})
    for _ in work(whole.path):
        pass
    chosen, cut_off = random.Random(seed), []
    while folder.run(RUN.id).result() is None:
        slot = SlotFolder(folder)
        attempt = work(slot.lend(RUN.id, None), fails=chosen.random() < 0.3)
        for _ in range(chosen.randint(1, 12) if len(cut_off) < 4 else 99):
            advance(cut_off, chosen)
            if next(attempt, "ended") == "ended":
                break
        if chosen.random() < 0.3:  # the driver is killed, and the next one begins with this
            take_back_all(folder)
        slot.take_back()
        cut_off.append(attempt)
        record = folder.run(RUN.id).result()
        if record and record.status == "failed":
            folder.run(RUN.id).forget_results()  # as the next session does
    found = content(folder)
    for _ in range(40):
        advance(cut_off, chosen)
    assert content(folder) == found == content(whole)


def test_what_a_driver_has_lent_when_it_was_killed_is_taken_by_the_next_one(folder):
    slot = SlotFolder(folder)
    attempt = work(slot.lend(RUN.id, None))
    for _ in range(6):
        next(attempt)
    assert not folder.run(RUN.id).checkpoints.exists()
    take_back_all(folder)
    assert sorted(file.name[:9] for file in folder.run(RUN.id).checkpoints.iterdir()) == ["000000001", "000000002"]
    assert not folder.slots.exists()


def test_a_take_back_that_was_cut_short_is_done_again(folder, monkeypatch):
    slot = SlotFolder(folder)
    for _ in work(slot.lend(RUN.id, None)):
        pass
    expected, usual, left = content(slot.own), os.link, [2]

    def link(*words, **options):
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError
        usual(*words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(slot_folder, "link", link)
        with pytest.raises(InterruptedError):
            slot.take_back()
    assert folder.run(RUN.id).result() is None
    take_back_all(folder)
    assert content(folder) == expected


def test_a_disk_without_second_names_gets_copies(folder, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError))
    slot = SlotFolder(folder)
    for _ in work(slot.lend(RUN.id, None)):
        pass
    expected = content(slot.own)
    slot.take_back()
    assert content(folder) == expected


@pytest.mark.parametrize("name", ["../../../elsewhere.json", "/etc/hostname", "adapter/../../x.json"])
def test_a_record_that_names_other_files_takes_none_of_them(folder, name):
    slot = SlotFolder(folder)
    files = Folder(slot.lend(RUN.id, None)).run(RUN.id)
    record = RunResult(RUN, "failed", error="x", files={name: "0"})
    files.write_result(record)
    (files.path / "link.json").symlink_to("/etc/hostname")
    slot.take_back()
    assert [*content(folder)] == ["result.json", "run.json"]


def test_what_is_no_file_is_not_taken_whatever_a_record_says_of_it(folder):
    slot = SlotFolder(folder)
    files = Folder(slot.lend(RUN.id, None)).run(RUN.id)
    names = ["metrics.jsonl", "predictions.jsonl", "log.txt", "adapter/adapter_config.json"]
    files.write_result(RunResult(RUN, "failed", error="x", files=dict.fromkeys(names, "0")))
    os.mkfifo(files.metrics_file)
    os.mkfifo(files.log_file)
    files.predictions_file.symlink_to("/etc/hostname")
    (files.path / names[-1]).mkdir(parents=True)
    take_back_all(folder)
    assert [*content(folder)] == ["result.json", "run.json"]
    assert not folder.run(RUN.id).predictions_file.is_symlink()
    assert not folder.slots.exists()


@pytest.mark.parametrize("lent", ["../../elsewhere", "", "lora-1\n", ["lora-1"], None])
def test_a_forged_name_of_a_lent_run_takes_nothing(folder, lent):
    before = content(folder)
    write_json(folder.slots / "0123456789abcdef.json", {"run": lent})
    take_back_all(folder)
    assert content(folder) == before
    assert not folder.slots.exists()


def test_a_file_in_place_of_the_slots_is_named(folder):
    folder.slots.write_text("")
    with pytest.raises(SetupError, match=r"\.slots: is not a folder\. Try: remove it$"):
        take_back_all(folder)
