"""`export`: a folder that gives what the evaluation gave and says what it lost, or one line and nothing left."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.compute.export import files, make, prompts, read_back
from bakeoff.compute.export.answer import result_of
from bakeoff.compute.run.request import forked
from bakeoff.errors import SetupError
from bakeoff.export import folder, job
from bakeoff.export.card import loss_lost
from bakeoff.export.comparison import Change
from bakeoff.export.folder import MARK
from bakeoff.store.checksums import read_mapping

WORK = {job.MAKE: make.make, job.READ_BACK: read_back.read_back, job.PROMPTS: prompts.prompts}


def here(module, asked, environment):
    """Do in this process what another does for a user: starting one takes seconds."""
    found = json.loads(json.dumps(result_of(WORK[module], json.loads(json.dumps(asked)))))
    if "error" in found:
        raise SetupError(found["error"])
    return found


@pytest.fixture
def within(monkeypatch):
    monkeypatch.setattr(job, "ask", here)


def export(folder, *options):
    done = CliRunner().invoke(main, ["export", str(folder), *map(str, options)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refused(folder, place, *options):
    """Return the one line that an export ends with; it leaves nothing at its place."""
    before = sorted(place.parent.rglob("*"))
    done = export(folder, "-o", place, *options)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("entry: ")]
    assert done.exit_code == 2, done.output
    assert len(lines) == 1, lines
    assert sorted(place.parent.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(("entry", "to"), [("lora", "merged"), ("last_layers", "merged"), ("prompt_tuning", "peft"),
                                           ("lora", "peft"), ("lora", "lora")])  # fmt: skip
def test_an_export_gives_what_the_evaluation_gave_and_says_so(shared, within, tmp_path, entry, to):
    place = tmp_path / "new/export"
    done = export(shared[1].folder.path, "--entry", entry, "--to", to, "-o", place)
    assert (done.exit_code, done.stdout) == (0, f"{place}\n"), done.output
    told = read_mapping(place / "export.json")["check"]
    assert (told["equal"], told["examples"], told["prompts"], told["ends"]) == (10, 10, 10, True)
    assert told["score"] == {
        "value": 0,
        "low": None,
        "high": None,
    }  # no document differs
    assert abs(told["loss"]["value"]) < 5e-3  # the evaluation's loss was in bf16; test_export_methods compares fp32
    card = (place / "README.md").read_text()
    assert "outputs equal to those of the evaluation | 10 of 10" in card
    assert ("library_name: transformers" in card) is (to == "merged")
    assert '"" +' not in card
    assert "checked: 10 of 10 outputs are equal, ROUGE-L +0.0 points, test loss " in done.stderr
    assert "warning" not in done.stderr
    settings = json.loads((place / "generation_config.json").read_text())
    plan = shared[1].folder.plan()
    assert (settings["do_sample"], settings["eos_token_id"], settings["max_new_tokens"]) == (
        False, 0, plan.output_tokens,
    )  # fmt: skip
    assert f"at most {plan.max_tokens} tokens; an output has at most {plan.output_tokens}. Other programs" in card
    assert str(tmp_path) not in "".join(f.read_text() for f in place.glob("*.json"))


def test_its_own_processes_do_it_for_a_user(shared, tmp_path):
    made = shared[1].export("merged", "lora", output=str(tmp_path / "x"), limit=3, dtype="bf16")
    assert made.path == tmp_path / "x"
    assert (made.check.examples, made.check.prompts, made.made["dtype"]) == (3, 3, "bf16")
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_what_was_lost_is_said_on_the_card_and_on_the_terminal(shared, within, tmp_path, monkeypatch):
    keep = make.write_model

    def spoil(source, base, model, *rest):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)
        return keep(source, base, model, *rest)

    monkeypatch.setattr(make, "write_model", spoil)
    done = export(shared[1].folder.path, "--entry", "lora", "--to", "merged", "-o", tmp_path / "x")
    assert done.exit_code == 0
    assert "warning: the test loss is higher than in the evaluation: +" in done.stderr
    assert "**The test loss is higher than in the evaluation: +" in (tmp_path / "x/README.md").read_text()


def test_another_tokenizer_or_end_is_noticed(shared, within, tmp_path, monkeypatch):
    keep = files.write_tokenizer

    def swap(source, folder):
        keep(source, folder)
        text = json.loads((folder / "tokenizer.json").read_text())
        words = text["model"]["vocab"]
        words["ba"], words["be"] = words["be"], words["ba"]
        (folder / "tokenizer.json").write_text(json.dumps(text))
        settings = folder / "generation_config.json"
        if settings.exists():
            settings.write_text(settings.read_text().replace('"eos_token_id": 0', '"eos_token_id": 5'))

    monkeypatch.setattr(files, "write_tokenizer", swap)
    done = export(shared[1].folder.path, "--entry", "lora", "--to", "merged", "-o", tmp_path / "x")
    assert re.search(r"warning: only \d of 10 prompts have the token ids of training", done.stderr)
    assert "warning: the token that ends an output is not that of training" in done.stderr


def test_an_export_that_nobody_read_back_says_so(shared, within, tmp_path):
    done = export(shared[1].folder.path, "--entry", "lora", "--to", "peft", "-o", tmp_path / "x", "--no-check")
    assert (done.exit_code, done.stderr) == (0, "entry: lora\nnot checked\n")
    assert "**Not checked.**" in (tmp_path / "x/README.md").read_text()
    assert read_mapping(tmp_path / "x/export.json")["check"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--entry", "prompt_tuning", "--to", "merged"], "its 4 virtual tokens are not weights of the base. Try: --to"),
        (["--entry", "prompt_tuning", "--to", "lora"], "cannot be merged"),
        (["--entry", "last_layers", "--to", "peft"], "no format for trained weights of the base itself. Try: --to"),
        (["--entry", "last_layers", "--to", "lora"], "which a LoRA cannot change. Try: --to merged"),
        (["--entry", "lara", "--to", "peft"], "no entry 'lara'. Did you mean 'lora'?"),
        (["--entry", "lead-1", "--to", "peft"], "'lead-1' is a baseline, which has no adapter"),
        (["--entry", "lora", "--to", "perft"], "--to perft: unknown target. Did you mean 'peft'?"),
        (["--entry", "lora", "--to", "peft", "--dtype", "fp16"], "--to peft writes an adapter, in fp32"),
        (["--entry", "lora", "--to", "merged", "--dtype", "q8_0"], "--dtype q8_0: Allowed: fp32, bf16, fp16"),
        (["--entry", "lora", "--to", "lora", "--rank", "0"], "expected --rank 1 or more"),
        (["--entry", "lora", "--to", "peft", "--limit", "-1"], "and --limit 0 or more"),
        (["--entry", "lora", "--to", "peft", "--device", "cuda:7"], "cuda:7"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(shared, within, tmp_path, words, line):
    assert line in refused(shared[1].folder.path, tmp_path / "x", *words)


def test_nothing_is_written_over(shared, within, tmp_path):
    folder, place = shared[1].folder.path, tmp_path / "x"
    words = ("--entry", "lora", "--to", "peft", "--limit", 1)
    assert "inside a run folder" in refused(folder, folder / "runs/x", *words)
    assert "name too long. Try: -o FOLDER, another place" in refused(folder, tmp_path / ("x" * 250), *words)
    place.mkdir()
    assert "exists already. Try: -o FOLDER, another place" in refused(folder, place, *words)
    (place / "mine").write_text("x")
    assert "not an export of bakeoff" in refused(folder, place, *words, "--force")
    shutil.rmtree(place)
    place.symlink_to(tmp_path / "nowhere")
    assert "exists already" in refused(folder, place, *words)
    place.unlink()
    assert export(folder, "-o", place, *words).exit_code == 0
    assert "or --force, which replaces this export" in refused(folder, place, *words)
    assert export(folder, "-o", place, "--entry", "lora", "--to", "merged", "--no-check", "--force").exit_code == 0
    assert (place / "model.safetensors").exists()
    assert not (place / "adapter_config.json").exists()
    with contextlib.chdir(place):
        assert export(folder.resolve(), "-o", ".", *words, "--no-check", "--force").exit_code == 0
    assert (place / "adapter_config.json").exists()
    (place / "mine").write_text("x")
    assert "contains mine, which bakeoff did not write" in refused(folder, place, *words, "--force")
    (place / MARK).write_text('{"made_by": "bakeoff", "files": [["a"], {}]}')
    assert "which bakeoff did not write" in refused(folder, place, *words, "--force")
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_a_kill_or_an_error_leaves_nothing(shared, within, tmp_path, monkeypatch):
    folder, words = shared[1].folder.path, ("--entry", "lora", "--to", "merged", "--no-check")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, other = tmp_path / f".x-{dead.pid}-0123abcd.tmp", tmp_path / f".y-{dead.pid}-0123abcd.tmp"
    living = tmp_path / f".x-{os.getppid()}-0123abcd.tmp"
    for place in (left, other, living):
        place.mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(job, "ask", full)
        line = export(folder, "-o", tmp_path / "x", *words)
        assert line.exit_code == 2
        assert "cannot be written (" in line.stderr
        assert "Try: -o FOLDER, on another disk" in line.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limit
    assert sorted(tmp_path.iterdir()) == sorted([other, living])  # of a process that lives, or another export
    assert export(folder, "-o", tmp_path / "x", *words).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(job, "ask", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert export(folder, "-o", tmp_path / "z", *words).exit_code == 130
        patch.setattr("bakeoff.export.export.write_card", lambda *_: (_ for _ in ()).throw(no_space()))
        patch.setattr(job, "ask", here)
        assert "No space left on device. Try: -o FOLDER" in refused(folder, tmp_path / "z", *words)


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_export_that_is_killed_while_it_replaces_another_leaves_one_of_them(exchanges, tmp_path, monkeypatch):
    """It is killed before and after each step: renaming, exchanging names, removing."""
    seen = set()
    for step in range(10):
        place = tmp_path / str(step) / "x"
        place.mkdir(parents=True)
        (place / "old").touch()

        def replaces(place=place, step=step):
            steps = iter(range(step))
            for where, name in ((folder, "exchange"), (type(place), "rename"), (shutil, "rmtree")):
                keep = getattr(where, name)

                def killed(*given, keep=keep, **more):
                    next(steps, None) is None and os.kill(os.getpid(), signal.SIGKILL)
                    done = keep(*given, **more)
                    next(steps, None) is None and os.kill(os.getpid(), signal.SIGKILL)
                    return done

                monkeypatch.setattr(where, name, killed if where is not folder or exchanges else lambda *_: False)
            with folder.written(place, True) as temporary:
                (temporary / "new").touch()
            return 0

        seen.add(forked(replaces))
        folder.sweep(place)
        assert [f.name for f in place.iterdir()] in (["old"], ["new"])
        assert [f.name for f in place.parent.iterdir()] == ["x"]
    assert seen == {0, -signal.SIGKILL}


def test_folders_that_do_not_exist_are_made_only_for_an_export_that_is(shared, within, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--entry", "lora", "--to", "peft", "--limit", 1)
    assert "exists already" in refused(shared[1].folder.path, tmp_path / "q/..", *words)
    place = tmp_path / "a/b/../c/x"
    with monkeypatch.context() as patch:
        patch.setattr("bakeoff.export.export.write_card", lambda *_: (_ for _ in ()).throw(no_space()))
        assert export(shared[1].folder.path, "-o", place, *words).exit_code == 2
    assert list(tmp_path.iterdir()) == []
    assert export(shared[1].folder.path, "-o", place, *words).stdout == f"{tmp_path}/a/c/x\n"
    assert sorted(f.name for f in tmp_path.rglob("*") if f.is_dir()) == ["a", "c", "x"]


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(*asked):
    """Answer as a process does whose files may have 5,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        return here(*asked)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_entry_that_is_damaged_unfinished_or_of_another_base_is_refused(
    shared, within, copied, tmp_path, tiny_model
):
    words, place = ("--entry", "lora", "--to", "merged", "--no-check"), tmp_path / "out/x"
    place.parent.mkdir()
    run = copied.run(shared[1].entries["lora"].runs[0])
    kept = run.predictions_file.read_bytes()
    run.predictions_file.write_bytes(kept[:-20])
    assert "entry 'lora' is not complete. Try: bakeoff run " in refused(copied.path, place, *words)
    run.predictions_file.write_bytes(kept)
    weights = run.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "adapter_model.safetensors: damaged or missing. Try: bakeoff run again" in refused(
        copied.path, place, *words
    )
    content[-1] ^= 1
    weights.write_bytes(content)
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    base = bytearray((moved / "model.safetensors").read_bytes())
    base[-2] ^= 1
    (moved / "model.safetensors").write_bytes(base)
    text = copied.config_file.read_text()
    copied.config_file.write_text(text.replace(str(tiny_model), str(moved)))
    assert "Try: read it, then add --trust" in refused(copied.path, place, *words)
    line = refused(copied.path, place, *words, "--trust")
    assert "not the base that the adapter was trained on (model.safetensors has changed" in line
    copied.config_file.write_text(text)
    run.result_file.unlink()
    assert "entry 'lora' has no finished run" in refused(copied.path, place, *words)


def test_a_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(job, "child", lambda _: ["sh", "-c", "echo broken >&2; kill -9 $$"])
    with pytest.raises(SetupError, match=r"its process ended with SIGKILL. Out of memory\? .*\(broken\)"):
        job.ask(job.MAKE, {}, os.environ)


def test_the_usual_place_is_named_by_bakeoff_entry_and_target(shared, within, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = export(shared[1].folder.path, "--entry", "lora", "--to", "peft", "--no-check")
    assert done.stdout == "exports/shared-lora-peft\n"


def test_a_card_says_in_what_precision_the_evaluation_read_its_loss():
    check = SimpleNamespace(loss=Change(value=-0.022, low=-0.037, high=-0.008))
    assert loss_lost(check, "fp32") == "-0.022 (-0.037 to -0.008)"
    assert loss_lost(check, "bf16") == "-0.022 (-0.037 to -0.008); the evaluation read it in bf16"
    assert loss_lost(SimpleNamespace(loss=None), "bf16") == "not measured"
