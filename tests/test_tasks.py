"""Tasks x bases: grids, the joint statement, its page, and what is refused."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy
import pytest
import yaml
from click.testing import CliRunner

from bakeoff.analysis.cells import TaskDocuments, grid_of, shared_documents
from bakeoff.analysis.task_verdict import costs, remarks
from bakeoff.analysis.task_words import measure_text, shown
from bakeoff.analysis.tasks import on_a_new_task, on_tasks_and_bases_like_these, on_tasks_like_these, on_these
from bakeoff.cli.main import main
from bakeoff.config.grid import load_grid
from bakeoff.errors import ConfigError, SetupError
from bakeoff.report.tasks import score_table
from bakeoff.store.tasks_document import TaskMeasure, TaskPair
from tests.conftest import make_rows, write_rows


def told(*words):
    """Return what a command prints, and its exit code."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def grid(tmp_path_factory, tiny_model):
    """A finished grid of two tasks on two bases, and its config."""
    place = tmp_path_factory.mktemp("grid")
    tasks = {}
    for number, task in enumerate(("first", "second")):
        sizes = {"train": 8, "validation": 4, "test": 6}
        tasks[task] = {"data": {
            split: write_rows(place / f"{task}-{split}.jsonl", make_rows(count, 10 * number + i)).name
            for i, (split, count) in enumerate(sizes.items())
        }}  # fmt: skip
    shutil.copytree(tiny_model, place / "other")
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(place / "other/model.safetensors")
    save_file(
        {n: w * torch.tensor(1.1) for n, w in weights.items()}, place / "other/model.safetensors", {"format": "pt"}
    )
    config = {
        "models": {"tiny": str(tiny_model), "other": str(place / "other")},
        "tasks": tasks,
        "entries": {"last_layers": {"learning_rate": 0.01}, "lora": {"r": 4, "learning_rate": 0.01}},
        "tune": False,
        "baselines": ["base"],
        "price": {"cpu_hour": 0.5, "currency": "EUR"},
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "output": str(place / "out"),
    }
    file = place / "grid.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    code, output = told("run", file, "--display", "none")
    assert code == 0, output
    return file, place / "out", output


def test_a_grid_is_a_bakeoff_of_every_task_on_every_base(grid):
    file, out, output = grid
    names = [f"{task}-on-{base}" for base in ("tiny", "other") for task in ("first", "second")]
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == sorted([*names, "report-figures"])
    for name in names:
        assert told("show", out / name)[0] == 0
    assert "On these 2 tasks and these 2 bases" in output
    assert "from 5 tasks on" in output
    document = json.loads((out / "report-figures/tasks.json").read_text())
    assert document["tasks"] == ["first", "second"]
    assert document["bases"] == ["tiny", "other"]
    assert all(costs["price"] > 0 for costs in document["costs"].values())
    again = {f: f.stat().st_mtime_ns for f in out.rglob("result.json")}
    assert told("run", file, "--display", "none")[0] == 0
    assert {f: f.stat().st_mtime_ns for f in out.rglob("result.json")} == again


def test_the_joint_mean_counts_every_task_once(grid):
    _, out, _ = grid
    document = json.loads((out / "report-figures/tasks.json").read_text())
    for measure in document["measures"]:
        pair = measure["pairs"][0]
        scores = {n: [v for of in measure["scores"][n].values() for v in of.values()] for n in document["entries"]}
        means = {n: sum(values) / len(values) for n, values in scores.items()}
        assert math.isclose(pair["difference"], means[pair["first"]] - means[pair["second"]], abs_tol=1e-12)
        assert math.isclose(pair["difference"], sum(pair["by_task"].values()) / 2, abs_tol=1e-12)
        assert not measure["ratio"] or pair["low"] < pair["difference"] < pair["high"]


def test_the_joint_verdict_is_shown_again(grid, tmp_path):
    assert "On these 2 tasks and these 2 bases" in told("show", grid[1])[1]
    assert json.loads(told("show", grid[1], "--json")[1])["tasks"] == ["first", "second"]
    shutil.copy(grid[1] / "grid.json", tmp_path)
    code, output = told("show", tmp_path)
    assert (code, "none of its bakeoffs has begun" in output) == (2, True)


def test_an_unfinished_grid_says_what_has_begun_and_how_to_see_it(grid, tmp_path):
    shutil.copytree(grid[1], tmp_path / "out")
    (tmp_path / "out/report-figures/tasks.json").unlink()
    code, output = told("show", tmp_path / "out")
    assert (code, "tasks.json: missing or damaged. Try: bakeoff report" in output) == (2, True)
    (tmp_path / "out/report.html").unlink()
    for name in ("first-on-other", "second-on-tiny"):
        shutil.rmtree(tmp_path / "out" / name)
    code, output = told("show", tmp_path / "out")
    assert code == 2
    assert "no joint table yet" in output
    assert "Begun: first-on-tiny, second-on-other." in output


def test_a_joint_verdict_that_is_older_than_its_results_says_so(grid, tmp_path):
    shutil.copytree(grid[1], tmp_path / "out")
    assert "changed since" not in told("show", tmp_path / "out")[1]
    file = tmp_path / "out/second-on-tiny/environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"date": "later"}))
    assert "second-on-tiny: changed since this was written. Try: bakeoff report" in told("show", tmp_path / "out")[1]
    told("report", tmp_path / "out")
    assert "changed since" not in told("show", tmp_path / "out")[1]
    file = tmp_path / "out/grid.json"  # as a grid leaves it whose config has one task less
    rows = json.loads(file.read_text())
    rows["cells"] = [row for row in rows["cells"] if row["task"] == "first"]
    file.write_text(json.dumps(rows))
    assert "second-on-tiny, second-on-other: changed since" in told("show", tmp_path / "out")[1]


def test_the_page_is_one_file_that_loads_nothing(grid):
    page = (grid[1] / "report.html").read_text()
    assert 'src="http' not in page
    assert "<script" not in page
    assert page.count('class="drawing"') == 6  # of each measure: two bases' scores, and one pair
    assert 'href="first-on-tiny/report.html"' in page


def test_bakeoffs_of_two_tasks_are_read_together_without_a_grid(grid, tmp_path):
    out = grid[1]
    page = tmp_path / "over.html"
    code, output = told("report", out / "first-on-tiny", out / "second-on-tiny", "--over", "tasks", "-o", page)
    assert code == 0, output
    assert "On these 2 tasks and this base" in output
    assert page.exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["first-on-tiny"], "one task on one base"),
        (["first-on-tiny", "first-on-tiny"], "one task on one base"),
        (["first-on-tiny", "second-on-tiny", "first-on-other"], "second-on-tiny on other is missing"),
    ],
)
def test_what_cannot_be_read_together_is_refused(grid, tmp_path, names, said):
    code, output = told("report", *(grid[1] / n for n in names), "--over", "tasks", "-o", tmp_path / "o.html")
    assert code == 2
    assert said in output
    assert not (tmp_path / "o.html").exists()


def test_tasks_that_share_most_test_documents_are_refused_and_others_named():
    cells = [TaskDocuments(t, t.upper(), [*d]) for t, d in (("a", "uvwx"), ("b", "yz"), ("c", "wxyz12345"))]
    assert shared_documents(cells[:2]) == []
    with pytest.raises(SetupError, match="C: shares test documents with B, so b and c are one task"):
        shared_documents(cells)
    (line,) = shared_documents([cells[0], cells[2]])
    assert line.startswith("a and c share 2 of 4 test documents, so they are less independent")


def test_a_bakeoff_counts_once():
    cells = [SimpleNamespace(task=t, base="w", folder=SimpleNamespace(path=p)) for t, p in (("a", "A"), ("a", "A2"))]
    cells.append(SimpleNamespace(task="b", base="w", folder=SimpleNamespace(path="B")))
    with pytest.raises(SetupError, match="A2: has the same data and base as A, so a on w would be counted twice"):
        grid_of(cells)


def test_prices_in_two_currencies_have_no_mean():
    def cell(price, currency):
        row = SimpleNamespace(costs={"price": price, "train_seconds": price})
        return SimpleNamespace(
            document=SimpleNamespace(entries={"lora": row}, price=SimpleNamespace(currency=currency), protocol={}),
            plan=SimpleNamespace(
                primary="rougeL",
                ranked_by=SimpleNamespace(bounded=True),
                looks=[],
                config={"entries": {"lora": {"r": 4 if currency == "EUR" else 8, "alpha": 1}}},
            ),
        )

    cells = [cell(1.0, "EUR"), cell(100.0, "JPY")]
    found = costs(cells, ["lora"])["lora"]
    assert (found["price"], found["train_seconds"]) == (None, 50.5)
    assert remarks(cells, ["lora"]) == [
        "Prices are in EUR and JPY, so there is no mean of them.", "Not equal in all bakeoffs: entries.lora.r.",
    ]  # fmt: skip
    assert costs(cells[:1] * 2, ["lora"])["lora"]["price"] == 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": {}}, "tasks: expected names"),
        ({"tasks": ["a"]}, "tasks: expected names"),
        ({"tasks": {"a/b": {}}}, "'a/b': expected up to 28 letters"),
        ({"tasks": {"a": {"output": "x"}}}, "'output' is the grid's own"),
        ({"tasks": {"a": {"model": "base"}}}, "tasks.a: 'model' is the grid's own. Try: set it in `models`"),
        ({"tasks": {"a": {"revision": "main"}}}, "tasks.a: 'revision' is the grid's own. Try: set it in `models`"),
        ({"model": "base"}, "'model' and 'models' are both set"),
        ({"models": []}, "models: expected names"),
        ({"models": ["base", "base"]}, "two have the same name"),
        ({"models": {"a": "base", "b": "base"}}, "are the same base"),
        ({"tasks": {"a": {"data": "docstrings"}, "b": {"data": "docstrings"}}}, "have the same data"),
        (
            {"tasks": {"a": {"data": "docstrings", "protocol": {"epoch": 3}}}},
            "(a on tiny): protocol.epoch: unknown key",
        ),
        ({"price": {"gpu_hour": -1}}, "price.gpu_hour"),
        ({"name": "../../evil"}, "name: expected up to 64 letters"),
        ({"name": "x\n\x1b[31m"}, "name: expected up to 64 letters"),
        ({"name": [1, 2]}, "name: expected text, got a list"),
        ({"output": 5}, "output: expected text, got 5. Try: quotes around it"),
        ({"tasks": {"v1.0": {"data": "docstrings"}}}, "'v1.0': expected up to 28 letters"),
        ({"tasks": {True: {"data": "docstrings"}}}, "'True': expected up to 28 letters"),
        (
            {"models": {"c": "base", "b-on-c": "gpt2"}, "tasks": {"a": {"data": "a.csv"}, "a-on-b": {"data": "b.csv"}}},
            "a-on-b on c and a on b-on-c would have the same folder, a-on-b-on-c",
        ),
        ({"tasks": {"News": {"data": "a.csv"}, "news": {"data": "b.csv"}}}, "differs in more than the case"),
    ],
)
def test_a_wrong_grid_is_one_line(grid, tmp_path, change, said):
    config = yaml.safe_load(grid[0].read_text()) | {"output": str(tmp_path / "out")} | change
    file = grid[0].with_name("wrong.yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    code, output = told("run", file, "--display", "none")
    assert code == 2
    assert said in output
    assert not (tmp_path / "out").exists()


def test_a_key_of_one_cell_is_set_by_the_name_as_text(tmp_path):
    file = tmp_path / "grid.yaml"
    tasks = {2024: {"data": "docstrings"}, "b": {"data": {"source": "docstrings", "test_limit": 9}}}
    file.write_text(yaml.safe_dump({"tasks": tasks, "models": {"one": "base", "two": "gpt2"}, "entries": ["lora"]}))
    cells = load_grid(file, {"tasks.2024.data.train_limit": 7, "models.two.protocol.batch_size": 3}).cells
    assert [(c.task, c.base, c.config.data.train_limit == 7, c.config.protocol.batch_size == 3) for c in cells] == [
        ("2024", "one", True, False), ("b", "one", False, False), ("2024", "two", True, True), ("b", "two", False, True)
    ]  # fmt: skip
    file.write_text(yaml.safe_dump({"models": ["base", "gpt2"], "data": "docstrings", "entries": ["lora"]}))
    with pytest.raises(ConfigError, match="`models` is a list, whose items have no keys. Try: names with keys"):
        load_grid(file, {"models.gpt2.protocol.batch_size": 3})


def test_a_grid_is_planned_whole_before_anything_trains(grid, tmp_path):
    config = yaml.safe_load(grid[0].read_text()) | {"output": str(tmp_path / "out")}
    config["tasks"]["second"]["data"]["test"] = "missing.jsonl"
    file = grid[0].with_name("missing.yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    code, output = told("run", file, "--display", "none")
    assert (code, "(second on tiny): " in output, "missing.jsonl" in output) == (2, True, True)
    assert not (tmp_path / "out").exists()


def test_an_entry_that_fails_in_one_cell_is_left_out_and_named(grid, tmp_path):
    shutil.copytree(grid[1], tmp_path / "out")
    config = yaml.safe_load(grid[0].read_text()) | {"output": str(tmp_path / "out")}
    entries = {"last_layers": {"learning_rate": 0.01}, "lora": {"r": 4, "learning_rate": 1e30}}
    config["tasks"]["second"]["entries"] = entries
    file = grid[0].with_name("diverges.yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    code, output = told("run", file, "--display", "none")
    assert "Left out, because not finished in every bakeoff: lora." in output
    assert output.count("last_layers is the only entry that every bakeoff has finished") == 1
    assert code == 1


def test_a_grid_leaves_a_folder_of_others_alone(grid, tmp_path):
    config = yaml.safe_load(grid[0].read_text()) | {"output": str(tmp_path)}
    (tmp_path / "mine.txt").write_text("mine")
    file = grid[0].with_name("elsewhere.yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    code, output = told("run", file)
    assert (code, "contains other files" in output) == (2, True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_list_of_cells_from_elsewhere_leads_nowhere_else(grid, tmp_path):
    (tmp_path / "grid.json").write_text(
        json.dumps({"made_by": "bakeoff", "cells": [{"folder": "../x", "task": "a", "base": "b"}]})
    )
    code, output = told("report", tmp_path)
    assert (code, "damaged" in output) == (2, True)


def test_two_entries_have_the_paired_t_test_over_tasks():
    from scipy.stats import ttest_rel

    means = numpy.random.default_rng(0).normal(size=(6, 2))
    (found,) = on_tasks_like_these(means)
    assert math.isclose(found.p_value(), ttest_rel(means[:, 0], means[:, 1]).pvalue)
    low, high = on_a_new_task(list(means[:, 0] - means[:, 1]))
    assert low < found.interval()[0] < found.interval()[1] < high


def test_tasks_that_agree_by_chance_do_not_look_calmer_than_all_entries_do():
    means = numpy.random.default_rng(1).normal(size=(5, 4))
    means[:, 1] = means[:, 0] - 0.1
    calm = on_tasks_like_these(means)[0]
    assert calm.variance > 0.01
    assert calm.p_value() > 0.05


def test_cells_of_one_base_are_not_counted_as_independent():
    of_base = numpy.array([3.0, -3.0, 0.5])[None, :]
    gaps = 1 + of_base + 0.01 * numpy.random.default_rng(2).normal(size=(6, 3))
    means = numpy.stack([gaps, numpy.zeros_like(gaps)], axis=2)
    (found,) = on_tasks_and_bases_like_these(means)
    assert found.p_value() > 0.3  # 18 independent cells would say 0.08 or less
    assert on_these([1.0, 1.2], [0.01, 0.01], [50, 50]).p_value() < 0.001


def test_where_nothing_varies_nothing_is_claimed():
    found = on_these([0.1, 0.1], [0.0, 0.0], [1e6, 1e6])
    assert found.p_value() is None
    assert found.interval() is None


def measured(scope, ratio=False):
    """Return a measure of two entries on five tasks, of which the first is ahead on four."""
    by_task = {f"task{i}": value for i, value in enumerate((0.05, 0.04, 0.06, 0.05, -0.01))}
    sign = -1 if ratio else 1
    pair = TaskPair(
        first="a", second="b", difference=sign * 0.038, low=min(sign * 0.01, sign * 0.066),
        high=max(sign * 0.01, sign * 0.066), p=0.01, p_adjusted=0.01, different=True,
        by_task={task: sign * value for task, value in by_task.items()}, spans={}, new_low=-0.04, new_high=0.12,
    )  # fmt: skip
    kind = {"name": "score", "heading": "ROUGE-L", "bounded": not ratio, "ratio": ratio, "scope": scope}
    return TaskMeasure(**kind, scores={}, best="a", tied_with_best=[], pairs=[pair])


def test_a_statement_says_how_far_it_reaches():
    tasks = [f"task{i}" for i in range(5)]
    these = measure_text(measured("these"), tasks[:3], ["base"])
    assert these.startswith("On these 3 tasks and this base, a is best on ROUGE-L.")
    assert "like these" not in these
    assert these.endswith("from 5 tasks on it can be said of others like them.")
    like = measure_text(measured("tasks"), tasks, ["one", "two"])
    assert like.startswith("On average over tasks like these 5, on these 2 bases, a is best")
    assert "by 3.8 points (95 % interval 1.0 to 6.6), ahead on 4 of 5 tasks" in like
    assert "a minus b would lie between -4.0 and 12.0 points" in like
    assert "Of other bases nothing is said" in like
    loss = measure_text(measured("tasks", ratio=True), tasks, ["one"])
    assert "its loss is lower than that of b by 3.7 % (95 % interval 1.0 to 6.4 %), ahead on 4 of 5 tasks" in loss
    tied = TaskPair(first="a", second="c", difference=0.01, low=-0.01, high=0.03, p=0.4, p_adjusted=0.4,
                    different=False, by_task={"task0": 0.01}, spans={})  # fmt: skip
    for ratio, said in ((False, ". a is ahead of b by 3.8 points"), (True, "the loss of a is lower than that of b")):
        pairs = [*measured("these", ratio).pairs, tied]
        some = measured("these", ratio).model_copy(update={"pairs": pairs, "tied_with_best": ["c"]})
        assert said in measure_text(some, tasks[:3], ["base"])


def test_what_rounds_to_zero_has_no_sign():
    measure = measured("these").model_copy(update={"scores": {"a": {"task0": {"base": -0.0004}}}, "pairs": []})
    assert shown(measure, -0.0004) == "0.0"
    table = score_table(SimpleNamespace(tasks=["task0"], bases=["base"], entries=["a"]), measure)
    assert [cell["text"] for cell in table["rows"][0]["cells"]] == ["0.0", "0.0"]
