"""Whole bakeoffs over the tiny model, through the Python API."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import bakeoff
from bakeoff.driver.attempt import KILLED
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.store.run_folder import Folder
from tests.conftest import write_rows

ENTRIES = ["prompt_tuning", "last_layers", "lora"]


def test_a_bakeoff_leaves_every_figure(shared):
    _, results = shared
    document = json.loads(results.folder.results_file.read_text())
    assert document["status"] == "done"
    assert list(document["entries"]) == ENTRIES
    assert list(document["baselines"]) == ["base", "few-shot-2", "lead-1", "oracle"]
    for row in document["entries"].values():
        assert row["status"] == "done"
        for name in ("loss", "rouge1", "rouge2", "rougeL", "rougeLsum"):
            metric = row["metrics"][f"test/{name}"]
            assert metric["low"] <= metric["mean"] <= metric["high"]
        for cost in ("train_seconds", "peak_bytes", "tokens_per_second", "adapter_bytes"):
            assert row["costs"][cost] > 0
        # A random model guesses worse than token frequencies, and the check says so.
        assert [check for check, passed in row["checks"].items() if not passed] == ["step0_beats_unigram"]
        assert set(row["check_notes"]) == {"step0_beats_unigram"}
        sound = {"loss_finite", "only_intended_moved", "step0_equals_base", "reloads_to_same_loss"}
        assert set(row["checks"]) - {"step0_beats_unigram"} == sound - (
            {"step0_equals_base"} if "num_virtual_tokens" in row["settings"] else set()
        )
        metric = {name: value["mean"] for name, value in row["metrics"].items()}
        assert metric["validation/overfitting"] == metric["validation/loss"] - metric["train_sample/loss"]
        before = document["baselines"]["base"]["metrics"]["neutral/loss"]["mean"]
        assert metric["neutral/forgetting"] == metric["neutral/loss"] - before
        assert 0 < row["trainable_parameters"] < row["total_parameters"]
        assert row["metrics"]["test/loss"]["mean"] < document["baselines"]["base"]["metrics"]["test/loss"]["mean"]
        assert "test/rougeL_max" not in row["metrics"]
    assert "one reference" in document["score_signature"]
    assert document["data"]["splits"]["train"]["cut_documents"] >= 0
    assert results.folder.report_file.stat().st_size > 1000


def test_the_plan_foretells_counts_and_steps(shared):
    config, results = shared
    plan = bakeoff.plan(config)
    for name, row in plan["entries"].items():
        assert row["trainable_parameters"] == results.entries[name].trainable_parameters
        assert row["total_parameters"] == results.entries[name].total_parameters
        assert row["steps"] == results.entries[name].steps == 10
    assert [r["id"] for r in plan["runs"]] == [r.id for r in results.folder.runs()]


def test_curves_hold_every_validation_and_the_best_is_kept(shared):
    _, results = shared
    for row in results.entries.values():
        curve = results.folder.run(row.runs[0]).curve()
        assert [point.step for point in curve] == [0, 3, 5, 6, 9, 10]
        best = min(curve, key=lambda point: point.validation_loss)
        assert row.best_step == best.step
        assert row.metrics["validation/loss"].mean == best.validation_loss


def test_the_same_config_gives_the_same_losses_in_processes_of_their_own(shared, tmp_path, processes):
    config, results = shared
    again = bakeoff.run(
        {**config, "output": str(tmp_path / "again"), "entries": {"lora": config["entries"]["lora"]}}, display="none"
    )
    assert again.entries["lora"].metrics == results.entries["lora"].metrics
    assert again.entries["lora"].runs == results.entries["lora"].runs
    (run,) = again.entries["lora"].runs
    files = {file.name for file in again.folder.run(run).path.iterdir() if file.is_file()}
    assert files == {"run.json", "result.json", "metrics.jsonl", "predictions.jsonl", "log.txt"}


def test_results_print_make_a_frame_and_load_the_winner(shared):
    _, results = shared
    assert "lora" in str(results)
    assert results.verdict in str(results)
    assert "\\" not in str(results)
    assert repr(results).startswith(f"<Results of {results.folder.path}: done; entries prompt_tuning, last_layers")
    frame = results.to_pandas()
    assert list(frame.index) == [*ENTRIES, "base", "few-shot-2", "lead-1", "oracle"]
    assert frame.loc["lora", "test/loss"] == results.entries["lora"].metrics["test/loss"].mean
    best = results.best()
    assert best.name == results.document.verdict.recommendations["quality"]
    rows = best.predictions()
    assert best.load().generate([row["document"] for row in rows]) == [row["output"] for row in rows]
    with pytest.raises(SetupError, match="Did you mean 'lora'"):
        results.entry("lara")


def test_the_package_lists_what_is_public_and_wants_a_path_or_a_mapping():
    assert set(dir(bakeoff)) >= {"run", "plan", "Results", "load_results"}
    with pytest.raises(bakeoff.BakeoffError, match="expected the path of a YAML file, or a mapping, got 3$"):
        bakeoff.run(3)


def test_a_failing_run_is_a_row_and_the_others_go_on(tiny_config):
    tiny_config["entries"] = {"wild": {"method": "last_layers", "learning_rate": 1e30}, "lora": {"r": 2}}
    results = bakeoff.run(tiny_config, {"protocol.clip_norm": None}, display="none")
    assert results.document.status == "incomplete"
    assert results.entries["wild"].status == "failed"
    assert "Try a lower learning_rate" in results.entries["wild"].error
    assert results.entries["wild"].checks == {"loss_finite": False}
    assert results.entries["lora"].status == "done"
    assert "wild (failed)" in results.verdict


def children(pid: int) -> list[int]:
    """Return the processes that any thread of `pid` has started."""
    return [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]


def process_of_run(driver: int) -> int | None:
    """Return the process that a run has now: a server has one that holds the base, and that forks the run's."""
    return next((run for s in children(driver) for holder in children(s) for run in children(holder)), None)


def test_a_killed_run_is_a_row_and_is_run_again(tiny_config, processes):
    folder = Folder(tiny_config["output"])

    def kill_first_training() -> None:
        deadline = time.monotonic() + 240
        while not list(folder.path.glob("runs/lora-*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process_of_run(os.getpid()), signal.SIGKILL)

    tiny_config["entries"] = {"lora": {"r": 2}}
    killer = threading.Thread(target=kill_first_training)
    killer.start()
    results = bakeoff.run(tiny_config, {"protocol.epochs": 200}, display="none")
    killer.join()
    assert results.entries["lora"].error == f"its process ended with SIGKILL{KILLED}"
    assert results.document.baselines["base"].status == "done"


def test_soft_prompts_leave_room_in_the_context(tiny_config):
    tiny_config["protocol"]["max_tokens"] = 512
    tiny_config["entries"]["prompt_tuning"]["num_virtual_tokens"] = 20
    plan = bakeoff.plan(tiny_config)
    assert plan["max_tokens"] == 64 - 20
    (finding,) = plan["data"]["findings"]
    assert finding.endswith("(512): the model's context is 64 less prompt_tuning's 20 virtual tokens")
    tiny_config["entries"]["prompt_tuning"]["num_virtual_tokens"] = 60
    with pytest.raises(bakeoff.BakeoffError, match="leave 4 of the model's 64 positions"):
        bakeoff.plan(tiny_config)


def test_a_run_id_follows_all_that_determines_a_result(tiny_config):
    first = bakeoff.plan(tiny_config)["runs"]
    for change in (
        {"protocol.epochs": 3},
        {"entries.lora.r": 3},
        {"template": "{{ document }}:"},
    ):
        second = bakeoff.plan(tiny_config, change)["runs"]
        assert first[-1]["id"] != second[-1]["id"]
    assert build_method("lora", tiny_config["entries"]["lora"]).r == 4


def test_an_entry_may_be_called_like_a_baseline_of_another_length(tiny_config):
    tiny_config["entries"] = {"lead-2": {"method": "lora", "r": 2}}
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert results.entries["lead-2"].metrics["test/loss"].mean > 0
    assert results.entries["lead-2"].costs["train_seconds"] > 0


def test_a_model_without_weights_or_tokenizer_is_refused_before_anything_is_written(tiny_config, tiny_model, tmp_path):
    import shutil

    cases = (("w", "model.safetensors", "has no safetensors weights"), ("t", "tokenizer*", "tokenizer"))
    for name, missing, message in cases:
        shutil.copytree(tiny_model, tmp_path / name)
        for file in (tmp_path / name).glob(missing):
            file.unlink()
        with pytest.raises(bakeoff.BakeoffError, match=message):
            bakeoff.run({**tiny_config, "model": str(tmp_path / name)}, display="none")
    assert not Path(tiny_config["output"]).exists()


def test_a_method_of_this_process_alone_is_refused(tiny_config):
    from bakeoff.methods import method
    from bakeoff.methods.lora import Lora

    bakeoff.register("mine")(type("Mine", (Lora,), {}))
    try:
        tiny_config["entries"] = ["mine"]
        with pytest.raises(bakeoff.BakeoffError, match="entry point in the group bakeoff.methods"):
            bakeoff.plan(tiny_config)
    finally:
        del method._REGISTER["mine"]


def test_nothing_outlives_a_killed_driver_and_the_bakeoff_goes_on(tiny_config, tmp_path):
    import yaml

    tiny_config["entries"] = {"lora": {"r": 2}}
    tiny_config["protocol"]["epochs"] = 20
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(tiny_config))
    driver = subprocess.Popen([sys.executable, "-m", "bakeoff", "run", str(config), "--display", "none"])
    family, deadline = [], time.monotonic() + 240
    while time.monotonic() < deadline:  # a run may be just over
        begun = list(Path(tiny_config["output"]).glob("runs/lora-*/metrics.jsonl"))
        server = next(iter(children(driver.pid)), 0)
        family = [server, *(process for child in children(server) for process in (child, *children(child)))]
        if begun and len(family) == 3:
            break
        time.sleep(0.005)
    assert len(family) == 3
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert bakeoff.run(config, display="none").document.status == "done"


def test_test_scores_are_against_every_reference(tiny_config, tmp_path):
    from rouge_score.rouge_scorer import RougeScorer

    documents = [json.loads(line) for line in Path(tiny_config["data"]["test"]).read_text().splitlines()]
    references = [[row["summary"], row["document"][10:40], "ba be"][: 1 + i % 3] for i, row in enumerate(documents)]
    rows = [{**row, "summary": texts} for row, texts in zip(documents, references, strict=True)]
    tiny_config["data"]["test"] = str(write_rows(tmp_path / "several.jsonl", rows))
    tiny_config["entries"] = {"lora": {"r": 2}}
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert "mean over references" in results.document.score_signature
    assert "mean over references" in str(results)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for row in (results.entries["lora"], results.document.baselines["lead-1"]):
        outputs = [p.output for p in results.folder.run(row.runs[0]).predictions()]
        each = [
            [scorer.score(text, output)["rougeL"].fmeasure for text in texts]
            for output, texts in zip(outputs, references, strict=True)
        ]
        expected = {"rougeL": [sum(s) / len(s) for s in each], "rougeL_max": [max(s) for s in each]}
        for name, scores in expected.items():
            metric = row.metrics[f"test/{name}"]
            assert metric.mean == pytest.approx(sum(scores) / len(scores), abs=1e-9)
            assert metric.low <= metric.mean <= metric.high
        words = [len(output.split()) for output in outputs]
        assert row.metrics["test/output_words"].mean == pytest.approx(sum(words) / len(words))
        assert row.metrics["test/reference_tokens"].mean > 0
    assert results.best().predictions()[2]["references"] == references[2]
