"""results.json is taken as it is only from this user: else whatever stands in it, results come of the records."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.results import load_results
from bakeoff.store.checksums import SEAL, read_mapping, sealed


def shown(folder, *options):
    done = CliRunner().invoke(main, ["show", str(folder.path), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def forged(folder, change):
    """Write results.json again as somebody would who knows its checksums and has no key."""
    document = {key: value for key, value in read_mapping(folder.results_file).items() if key != SEAL}
    change(document)
    folder.results_file.write_text(json.dumps(sealed(document)))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["entries"]["lora"].update(metrics="none"),
        lambda d: d["entries"]["lora"]["metrics"]["test/loss"].update(mean=0.001),
        lambda d: d["verdict"].update(text="take me"),
        lambda d: d.pop("verdict"),
        lambda d: d.update(signature="\ud800"),
        lambda d: [d.pop(key) for key in [*d] if key != "records"],
    ],
)
def test_a_forged_results_file_is_made_of_the_records_again(copied, shared, change):
    right = shown(shared[1].folder).stdout
    forged(copied, change)
    assert shown(copied).stdout == right
    assert load_results(copied.path).document == shared[1].document


def test_ones_own_results_file_is_taken_as_it_is(copied, monkeypatch):
    written = load_results(copied.path).document
    monkeypatch.setattr("bakeoff.analysis.summary.summarize", lambda _: pytest.fail("made again"))
    assert load_results(copied.path).document == written
    assert "signature" not in json.loads(shown(copied, "--json").stdout)


def test_results_of_a_user_without_a_home_are_made_of_the_records(copied, shared, monkeypatch):
    monkeypatch.setattr("bakeoff.store.signature.key", lambda: Path("/nowhere/key").read_bytes())
    assert load_results(copied.path).document == shared[1].document


def with_score(folder, value):
    """Give the base's first prediction another score, with sums that fit, as a forger would; return the file."""
    folder.results_file.unlink()
    run = folder.run(next(run.id for run in folder.runs() if run.entry == "base"))
    first, *rest = run.predictions_file.read_text().splitlines()
    rows = [json.dumps(json.loads(first) | {"rougeL": value}), *rest]
    result = run.result()
    run.predictions_file.write_text("\n".join(rows) + "\n")
    run.write_result(result)
    return run.predictions_file


@pytest.mark.parametrize("value", [10**400, 1e31, "x", None, {"p": 1.0}, {"f": [1]}, [], 1e305])
def test_a_prediction_without_a_usable_score_is_damaged(copied, value):
    file, done = with_score(copied, value), shown(copied)
    assert done.exit_code == 2
    assert done.stderr == f"bakeoff: {file}:1: damaged. Try: bakeoff run again\n"


@pytest.mark.parametrize("value", [10**30, -1e30, {"f": 10**25}])
def test_a_prediction_with_a_huge_score_is_shown(copied, value):
    with_score(copied, value)
    assert shown(copied).exit_code == 0


@pytest.mark.parametrize("depth", range(900, 1000, 10))
def test_a_record_that_can_be_read_and_not_written_counts_as_none(copied, depth):
    copied.results_file.unlink()
    file = next(copied.path.glob("runs/base-*/result.json"))
    file.write_text(file.read_text().replace("{", '{"deep": ' + "[" * depth + "]" * depth + ",", 1))
    assert shown(copied).exit_code == 0


def test_a_signature_of_half_a_character_is_none(copied):
    tag = read_mapping(copied.tag_file)
    copied.tag_file.write_text(json.dumps(tag | {"signature": "\ud800"}))
    done = CliRunner().invoke(main, ["generate", str(copied.path)], input="ba be bi")
    assert done.exit_code == 2
    assert "bakeoff did not write its config.yaml for you" in done.stderr
