"""The scores in a run folder are rouge-score's own, by a script that shares no code with bakeoff."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks/rescore.py"


@pytest.fixture(scope="module")
def rescore():
    spec = importlib.util.spec_from_file_location("rescore", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_score_is_rouge_scores_own_and_another_is_seen(shared, rescore, tmp_path):
    folder = shared[1].folder.path
    assert rescore.rescore(folder) < 1e-9
    copied = shutil.copytree(folder, tmp_path / "copied")
    file = next(copied.glob("runs/lead-1-*/predictions.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["rouge2"]["p"] += 1e-6
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rescore.rescore(copied) == pytest.approx(1e-6)


def test_several_references_are_scored_as_rouge_score_scores_them(rescore):
    from bakeoff.scoring.rouge import rouge

    output, references = "The cat sat. It ate", ["A cat sat on it.", "The cat sat.\nIt ate fish", "no"]
    (own,) = rouge([output], [references])
    again = rescore.score(output, references)
    assert set(again) == set(own)
    assert all(again[name] == pytest.approx(own[name], abs=1e-12) for name in own)
