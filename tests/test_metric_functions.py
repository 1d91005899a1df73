"""Metrics that are somebody else's code: whatever it does, a plan says it in a line and a run leaves a record."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.config.names import RESERVED
from bakeoff.data.examples import Example
from bakeoff.driver.attempt import KILLED, Attempt
from bakeoff.driver.executor import Slot
from bakeoff.errors import BakeoffError, ConfigError
from bakeoff.scoring import custom
from bakeoff.scoring.custom import MetricError, call, code_identity, number_of, tried
from bakeoff.scoring.metrics import measures, rules, score_outputs
from bakeoff.store.event_log import Reader
from bakeoff.store.events import State
from bakeoff.store.records import Run, Task
from bakeoff.store.run_folder import Folder
from tests.test_grace import events_of

TEST = [Example("1", "document", "summary")]


@pytest.mark.parametrize("name", RESERVED)
def test_a_name_that_records_use_is_refused(name):
    with pytest.raises(ConfigError, match=f"metrics: 'own.py:{name}': the results use this name for something else"):
        load_config({"data": "docstrings", "entries": ["lora"], "metrics": [f"own.py:{name}"]})


def test_a_name_that_another_metric_derives_is_refused(tmp_path):
    for name in ("rouge1_precision", "rougeL_max", "bleu_corpus"):
        with pytest.raises(ConfigError, match=f"two of them have the score '{name}'"):
            measures(["rouge", "bleu", f"own.py:{name}"])


def test_a_score_is_called_as_the_config_calls_the_function(tmp_path):
    (tmp_path / "own.py").write_text("share = lambda output, references: len(output) / 10\n")
    rows, _ = score_outputs([f"{tmp_path}/own.py:share"], ["abc"], [["d"]])
    assert rows == [{"share": 0.3}]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (numpy.float32(0.5), 0.5), (numpy.int64(3), 3), (numpy.bool_(True), 1), (numpy.array(2.0), 2), (True, 1),
        (Fraction(1, 4), 0.25), (Decimal("0.5"), 0.5), (10**400, None), (float("nan"), None), (float("inf"), None),
        ("3", None), (None, None), (1j, None), ({"f": 1}, None), (numpy.float64("nan"), None),
    ],
)  # fmt: skip
def test_numbers_of_any_library_are_scores_and_nothing_else_is(value, number):
    assert number_of(value) == number


HOSTILE = {
    "raise Own('mine')": "Own for output 1: mine",
    "raise Own": "Own for output 1$",
    "return Text()": "returned Text for output 1",
    "raise SystemExit(0)": "SystemExit for output 1",
    "sys.exit(0)": "SystemExit for output 1",
    "raise GeneratorExit": "GeneratorExit for output 1",
    "return 1e200": "returned 1e.200 for output 1. Expected a finite number, at most 1e.30",
    "return 10 ** 5000": "returned int for output 1. Expected a finite number",
    "return float('inf')": "returned inf for output 1",
    "return [0.5]": "returned list for output 1",
    "import numpy; return numpy.zeros(3)": "ValueError for output 1",
}
ENDING = {
    "os._exit(0)": "its process ended without a score",
    "os.kill(os.getpid(), 9)": "its process ended without a score",
}
HARMLESS = {
    "print('{\"entries\": 1}'); return 1": "",
    "os.closerange(0, 100); return 1": "",
    "sys.stdout.close(); return 1": "",
    "return 1 if os.fork() else 0": "",
}
HEAD = """
import os, sys, time
class Own(BaseException): pass
class Text(str): __repr__ = None
def f(output, references):
    """


@pytest.mark.parametrize(("body", "message"), {**HOSTILE, **ENDING}.items())
def test_whatever_a_function_does_a_plan_says_in_one_line(tmp_path, body, message):
    (tmp_path / "own.py").write_text(HEAD + body)
    with pytest.raises(MetricError, match=message) as caught:
        rules([f"{tmp_path}/own.py:f"], TEST)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("body", HARMLESS)
def test_what_a_function_prints_closes_or_forks_does_not_reach_the_plan(tmp_path, body, capfd):
    (tmp_path / "own.py").write_text(HEAD + body)
    assert rules([f"{tmp_path}/own.py:f"], TEST)[0][0] == "f"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "line", ["import sys; sys.exit(0)", "raise KeyError('x')", "class B(BaseException): pass\nraise B"]
)
def test_a_module_that_ends_on_import_is_one_line(tmp_path, line):
    (tmp_path / "own.py").write_text(line)
    with pytest.raises(ConfigError, match="own.py:f: cannot be imported"):
        rules([f"{tmp_path}/own.py:f"], TEST)


def test_a_function_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "TRY_SECONDS", 1.0)
    (tmp_path / "own.py").write_text(HEAD + "open('child', 'w').write(str(os.getpid())); time.sleep(600)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetricError, match="no score after 1 seconds, so its process was ended"):
        tried(f"{tmp_path}/own.py:f", "a", ["b"])
    if Path("child").exists():
        assert not Path(f"/proc/{Path('child').read_text()}").exists()


@pytest.mark.parametrize(("body", "message"), HOSTILE.items())
def test_in_a_run_it_is_a_metric_error(body, message):
    scope = {}
    exec(HEAD + body, scope)
    with pytest.raises(MetricError, match=message):
        call("own.py:f", scope["f"], 1, "a", ["b"])


def test_a_copy_that_a_function_makes_of_the_run_ends():
    pid = os.getpid()
    assert call("own.py:f", lambda output, references: 1 if os.fork() else 0, 1, "a", ["b"]) == 1
    assert os.getpid() == pid


def test_plan_and_run_of_a_metric_that_exits(tiny_config, tmp_path):
    (tmp_path / "own.py").write_text(
        "import sys\ndef f(output, references):\n    sys.exit(0) if not output else 0\n    return 1\n"
    )
    config = tiny_config | {"metrics": [f"{tmp_path}/own.py:f"], "entries": {"last_layers": {}}, "baselines": ["base"]}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    printed = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml"), "--json"])
    assert json.loads(printed.stdout)["primary"] == "f"
    (tmp_path / "own.py").write_text("import sys\ndef f(output, references):\n    sys.exit(0)\n")
    done = CliRunner().invoke(main, ["run", str(tmp_path / "c.yaml"), "--display", "none"])
    assert done.exit_code == 2
    assert "own.py:f: SystemExit for output 1" in done.stderr
    (tmp_path / "own.py").write_text(
        "import os, sys\ndef f(output, references):\n    return 1 if output in references else sys.exit(0)\n"
    )
    results = bakeoff.run(config, display="none")
    assert "SystemExit for output" in results.document.entries["last_layers"].error
    assert results.document.status == "failed"


WRAPPED = {
    "partial": "f = functools.partial(g, extra=1)",
    "instance": "class C:\n    def __call__(self, output, references):\n        return 1.0\nf = C()",
    "cached": "@functools.lru_cache\ndef cached(output):\n    return 1.0\ndef f(o, r):\n    return cached(o)",
    "wrapped": "@functools.wraps(g)\ndef f(*given):\n    return 1.0",
    "method": "class C:\n    def score(self, output, references):\n        return 1.0\nf = C().score",
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_any_callable_is_a_metric_and_edits_to_its_code_are_noticed(tmp_path, kind):
    text = "import functools\ndef g(output, references, extra=0):\n    return 1.0\n" + WRAPPED[kind]
    (tmp_path / "own.py").write_text(text)
    before = code_identity(f"{tmp_path}/own.py:f")
    assert score_outputs([f"{tmp_path}/own.py:f"], ["a"], [["b"]])[0] == [{"f": 1}]
    (tmp_path / "own.py").write_text(text.replace("1.0", "0.5"))
    assert code_identity(f"{tmp_path}/own.py:f") != before
    assert score_outputs([f"{tmp_path}/own.py:f"], ["a"], [["b"]])[0] == [{"f": 0.5}]


def test_lru_cache_itself_is_a_metric(tmp_path):
    assert code_identity("os:getcwd") == code_identity("os:getcwd") != ""
    import functools

    assert custom.code_file(functools.lru_cache(measures)) == measures.__code__.co_filename


def test_a_project_that_moves_keeps_its_ids(tmp_path):
    text = "def f(output, references):\n    return 1\n"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "score.py").write_text(text)
    here, there = (rules([f"{tmp_path}/{folder}/score.py:f"], TEST) for folder in ("one", "two"))
    assert here == there
    (tmp_path / "two/score.py").write_text(text + "# edited\n")
    assert rules([f"{tmp_path}/two/score.py:f"], TEST) != here


def test_rouge_needs_no_home():
    code = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from bakeoff.scoring.rouge import rouge\n"
        "print(rouge(['a dog'], [['a dog']])[0]['rouge1']['f'], 'HOME' in os.environ)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HOME"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1.0", "False"], done.stderr


def test_a_function_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(BakeoffError, match="no such file. Paths are relative to the config file"):
        rules([f"{tmp_path}/none.py:f"], TEST)


def test_a_metric_that_never_ends_is_named_when_its_run_is_ended(tmp_path):
    """By the driver, which hears of each function before it scores."""
    own = f"{tmp_path}/own.py:slow"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    silent, said = [], [{"started": process.pid}, {"event": State(run="base-1", state="scoring", metric=own).row()}]

    class Server:
        def ask(self, folder, task):
            pass

        def kill(self, started, number):
            os.kill(started, number)

        def ended(self):
            return None

        def hear(self):
            if said:
                return said.pop(0), 0.0
            silent.append(1)
            if silent == [1]:
                return None, 0.06  # longer than a run may be silent here
            return {"exit": process.wait(60)}, 0.0  # it was killed

    run = Run("base-1", "base", "baseline", "base", {}, 0)
    try:
        attempt = Attempt(server := Server(), Folder(tmp_path), Task(run, "score"), 0.05)
        (state, failed) = events_of(attempt, server)
    finally:
        process.kill()
    assert state.metric == own
    text = (
        f"no progress for 0.05 seconds (safety.stall_seconds) while the metric {own} scored, so its process was ended"
    )
    assert failed.error == text
    assert Folder(tmp_path).run("base-1").result().cause == "stalled"


ENDS = """
import os, signal
from pathlib import Path

def ends(output, references):
    if output in references:  # as a plan tries it
        return 1.0
    for act in ("exit", "server", "fork"):
        try:
            os.close(os.open(Path(__file__).parent / act, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if act == "exit":
            os._exit(3)
        if act == "server":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        os.fork()
    return 0.0
"""


def test_runs_that_only_score_by_a_function_that_ends_their_process_are_records(
    copied, shared, tmp_path, processes, monkeypatch
):
    (tmp_path / "own.py").write_text(ENDS)
    config = {**shared[0], "output": str(copied.path), "metrics": [f"{tmp_path}/own.py:ends"]}
    servers = []
    start = Slot.start
    monkeypatch.setattr(Slot, "start", lambda slot, kind: servers.append(kind) or start(slot, kind))
    failed = bakeoff.run(config, display="none").document
    rows = failed.baselines | failed.entries
    assert [row.error for row in rows.values() if row.error] == [
        "its process ended with status 3",
        f"its process ended with SIGKILL{KILLED}",
    ]
    assert servers == ["score", "score"]
    again = bakeoff.run(config, display="none").document
    assert again.status == "done"
    assert servers == ["score"] * 3


def test_a_run_tells_of_each_function_before_it_scores(tmp_path, shared):
    (tmp_path / "own.py").write_text("def share(output, references):\n    return len(output)\n")
    own = f"{tmp_path}/own.py:share"
    changes = {"metrics": ["rouge", own], "entries": ["last_layers"], "output": str(tmp_path / "out")}
    results = bakeoff.run({**shared[0], **changes, "baselines": ["base", "lead-1"]}, display="none")
    events = Reader(results.folder.events_file).new_events()
    told = [event for event in events if event.kind == "state" and event.state == "scoring"]
    assert [event.metric for event in told] == [own] * 3


ROWS = """
def by_row(output, references, row):
    row["tests"].append("not seen by others")
    return len(row["tests"]) + (row["id"] == "1") * 10

def together(outputs, references):
    return [len(outputs) + len(texts) / 10 for texts in references]

def with_rows(outputs, references, rows):
    return (row["n"] for row in rows)

def too_few(outputs, references):
    return [1.0]

def no_number(outputs, references):
    return [None for _ in outputs]

def no_list(outputs, references):
    return 3

def extra(output, references, weight=2):
    return weight
"""
GIVEN = (["a", "b"], [["x"], ["y", "z"]])
COLUMNS = [{"id": "1", "tests": ["t"], "n": 5}, {"id": "2", "tests": [], "n": 7}]


@pytest.mark.parametrize(
    ("function", "scores"),
    [("by_row", [12, 1]), ("together", [2.1, 2.2]), ("with_rows", [5, 7]), ("extra", [2, 2])],
)
def test_a_function_gets_what_its_parameters_name(tmp_path, function, scores):
    (tmp_path / "own.py").write_text(ROWS)
    for _ in range(2):  # what a function does to its row changes nothing
        rows, _ = score_outputs([f"{tmp_path}/own.py:{function}"], *GIVEN, columns=COLUMNS)
        assert [row[function] for row in rows] == scores


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("too_few", "returned 1 scores for 2 outputs"),
        ("no_number", "returned None for output 1. Expected a finite number"),
        ("no_list", "own.py:no_list: TypeError"),
        ("by_row", "own.py:by_row: KeyError for output 1: 'tests'"),
    ],
)
def test_a_function_of_all_outputs_that_gives_no_scores_is_named(tmp_path, function, message):
    (tmp_path / "own.py").write_text(ROWS)
    with pytest.raises(MetricError, match=message):
        score_outputs([f"{tmp_path}/own.py:{function}"], *GIVEN)


def test_columns_of_the_test_split_reach_a_metric_and_rescore_when_they_change(tiny_config, tmp_path):
    (tmp_path / "own.py").write_text("def has(output, references, row):\n    return row['word'] in row['document']\n")
    own = f"{tmp_path}/own.py:has"
    config = tiny_config | {"metrics": [own], "entries": ["last_layers"], "baselines": ["base"]}
    with pytest.raises(MetricError, match="has: KeyError for output 1: 'word'"):
        bakeoff.plan(config)
    config["data"] = config["data"] | {"metric_columns": ["word"]}
    with pytest.raises(BakeoffError, match=r"data.test: .*no column 'word'.* Set data.metric_columns"):
        bakeoff.plan(config)
    path = Path(config["data"]["test"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def write(word):
        path.write_text("".join(json.dumps({**row, "word": word(row)}) + "\n" for row in rows))

    write(lambda row: row["document"].split()[0])
    results = bakeoff.run(config, display="none")
    assert results.document.entries["last_layers"].metrics["test/has"].mean == 1
    trained = {run.id for run in results.folder.plan().runs}
    write(lambda row: "?" * (row is rows[0]) or row["document"].split()[0])
    again = bakeoff.run(config, display="none")
    assert again.document.entries["last_layers"].metrics["test/has"].mean == pytest.approx(0.9)
    assert {run.id for run in again.folder.plan().runs} == trained
