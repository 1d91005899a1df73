"""Any file of a run folder, or any that a bakeoff begins with, is damaged, and every command says so in one line or
does without: no traceback, no hang.

BAKEOFF_FUZZ=2000 tries as many cases as that with other seeds.
"""

import json
import os
import re
import shutil
import signal
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bakeoff
from bakeoff.cli.main import main
from bakeoff.compute.run.execution import execute
from bakeoff.compute.training.checkpoint import Stopped
from bakeoff.store.checksums import SEAL, sealed
from bakeoff.store.run_folder import SPLITS, Folder
from tests.conftest import make_rows, many, with_figures, write_splits
from tests.test_formats import write

SECONDS = 120  # in which every command ends
VALUES = [
    None,
    True,
    -1,
    0,
    0.5,
    10**30,
    1e308,
    "",
    "x",
    "1",
    "\x1b[31m",
    "../../x",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "9" * 3000,
    "\ud800",
    "\0",
    "x" * 300,
    "2026-01-01T00:00:00+00:00",
    float("nan"),
    float("-inf"),
    -(10**30),
    5e-324,
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """The folder of a finished bakeoff with a searched entry, a given one and baselines."""
    tmp = tmp_path_factory.mktemp("finished")
    config = {
        "name": "finished",
        "model": str(tiny_model),
        "data": write_splits(tmp),
        "entries": {"lora": {"r": 4}, "last_layers": {"learning_rate": 0.01}},
        "tune": {"trials": 2},
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "output": str(tmp / "out"),
    }
    return bakeoff.run(config, display="none").folder


def places(value, path=()):
    """Yield the path of every value within a JSON document."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def mutated(document, draw):
    """Return a JSON document with one value replaced, removed or another of its values, or another document."""
    every = list(places(document))
    if not every or draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(VALUES))
    *above, last = draw(st.sampled_from(every))
    inner = document
    for key in above:
        inner = inner[key]
    how = draw(st.sampled_from(["remove", "other", "value", "value"]))
    if how == "remove":
        del inner[last]
    elif how == "other":
        value = document
        for key in draw(st.sampled_from(every)):
            value = value[key]
        inner[last] = deepcopy(value)
    else:
        inner[last] = draw(st.sampled_from(VALUES))
    if draw(st.booleans()) and isinstance(document, dict) and SEAL in document and "run" in document:
        document = sealed({key: value for key, value in document.items() if key != SEAL})  # as a forger would
    return document


def damage(file, draw):
    """Damage one file, and return how."""
    kinds = {".json": ["shape"] * 6, ".jsonl": ["shape"] * 5 + ["lines"]}.get(file.suffix, ["bits"])
    kind = draw(st.sampled_from([*kinds, "cut", "bits", "missing", "link", "pipe", "folder", "zero", "rights"]))
    content = file.read_bytes()
    if kind in ("shape", "lines"):
        lines = content.splitlines(keepends=True) if file.suffix == ".jsonl" else [content]
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        if lines and kind == "shape":
            lines[at] = json.dumps(mutated(json.loads(lines[at]), draw)).encode() + b"\n"
        elif lines:
            lines[at] = draw(st.sampled_from([b"", b"\n", lines[at] * 2, lines[0], lines[-1]]))
        file.write_bytes(b"".join(lines))
    elif kind == "cut":
        file.write_bytes(content[: draw(st.integers(0, len(content)))])
    elif kind == "bits":
        place = draw(st.integers(0, max(0, len(content) - 1)))
        file.write_bytes(content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :])
    elif kind == "rights":
        file.chmod(0)
    else:
        file.unlink()
        if kind == "link":
            file.symlink_to("/etc/hostname")
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        elif kind == "zero":
            file.symlink_to("/dev/zero")
    return kind


def ask(words, what):
    """Return the exit code of a command, and its line on standard error where it refuses; fail for any other end."""
    return judged(invoked(words), what)


def drawn(command):
    """Let reports have their figures where the command is about reports; a run only writes one at its end."""
    return with_figures() if command in ("report", "compare") else nullcontext()


class HangsError(BaseException):
    """A command has not ended in good time; no handler of errors takes it."""


def invoked(words, given="ba be bi"):
    """Return the result of a command, with documents on standard input; HangsError where it does not end."""

    def hangs(*_):
        raise HangsError

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        done = CliRunner().invoke(main, [str(word) for word in words], input=given)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return done


def judged(done, what):
    """Return how a command ended; fail where that is none of the documented ways."""
    told = f"{what}: {done.output[-2000:]}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(told) from done.exception
    assert done.exit_code in (0, 1, 2), told
    if done.exit_code == 2:
        assert len(done.stderr.strip().splitlines()) == 1, told
    return done.exit_code, done.stderr if done.exit_code == 2 else ""


@pytest.fixture(scope="module")
def resumed(finished, tmp_path_factory):
    """The folder of the same bakeoff, killed in the middle: one run has a checkpoint, one is to be decoded again."""
    folder = Folder(shutil.copytree(finished.path, tmp_path_factory.mktemp("resumed") / "out"))
    finals = {run.entry: folder.run(run.id) for run in folder.runs() if run.kind == "entry"}
    finals["lora"].set_aside()
    finals["last_layers"].forget_results()
    with pytest.raises(Stopped):
        execute(folder.path, finals["last_layers"].path.name, "train", lambda event: None, lambda: True)
    folder.results_file.unlink()
    folder.events_file.write_text("".join(folder.events_file.read_text().splitlines(keepends=True)[:-2]))
    names = {file.name for file in folder.path.rglob("*")}
    assert {"earlier.json", "checkpoints"} < names
    return folder


def measured(folder):
    """Return every row's status and metrics."""
    document = bakeoff.load_results(folder).document
    rows = document.entries | document.baselines
    return {name: (row.status, row.metrics) for name, row in rows.items()}


def try_one(folder, command, draw, undisturbed):
    """Damage a copy of a folder, ask a command about it, and look at what it said and left.

    A run that comes to its end has the results of the `undisturbed` bakeoff, unless what it believed was forged.
    """
    with TemporaryDirectory(prefix="damaged-") as place:
        copy = Path(shutil.copytree(folder.path, Path(place) / "copy"))
        outside = Path(place) / "outside"
        outside.write_text("mine")
        files = sorted(file for file in copy.rglob("*") if file.is_file() and file.suffix not in (".svg", ".csv"))
        name = draw(st.sampled_from(sorted({re.sub("[0-9a-f]{20,}", "", file.name) for file in files})))
        file = draw(st.sampled_from([file for file in files if re.sub("[0-9a-f]{20,}", "", file.name) == name]))
        kind = damage(file, draw)
        page = Path(place) / "page.html"
        words = {
            "live": ["watch", copy, "--display", "live"],
            "plan": ["plan", copy / "config.yaml", "--trust"],
            "compare": ["report", copy, undisturbed.path, "-o", page],
            "run": ["run", copy / "config.yaml", "-s", f"output={copy}", "--display", "none", "--trust"],
            "generate": ["generate", copy, "--trust", "--entry", "lora"],
        }.get(command, [command, copy])
        what = f"{command}, {kind} of {file.relative_to(copy)}"
        with drawn(command):
            code, said = ask(words, what)
        assert not said or str(copy) in said or "ba" in said
        assert outside.read_text() == "mine"
        named = {"copy", "outside"} | ({"page.html", "page-figures"} if command == "compare" else set())
        assert {path.name for path in Path(place).iterdir()} <= named
        forged = file.name == "config.yaml" or (kind == "shape" and file.name in ("result.json", "earlier.json"))
        if command == "run" and code == 0 and not forged:
            ours, theirs = measured(copy), measured(undisturbed.path)
            if file.parent.name == "trunk":  # losses without a stored trunk are rounded in another way
                ours, theirs = ({name: status for name, (status, _) in rows.items()} for rows in (ours, theirs))
            assert ours == theirs, what
        for path in copy.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755)


QUICK = {"show": 60, "watch": 30, "live": 10, "plan": 8, "report": 8, "compare": 4, "generate": 8, "run": 4}
QUICK_RESUMED = {"show": 12, "watch": 6, "report": 3, "generate": 3, "run": 6}


@pytest.mark.parametrize(("command", "quick"), QUICK.items())
def test_a_damaged_run_folder_is_one_line(finished, command, quick):
    """Whatever is damaged, and however: documented exit codes, nothing outside changed, no endless wait."""

    @many(quick)
    @given(data=st.data())
    def each(data):
        try_one(finished, command, data.draw, finished)

    each()


@pytest.mark.parametrize(("command", "quick"), QUICK_RESUMED.items())
def test_a_damaged_folder_of_a_killed_bakeoff_is_one_line(finished, resumed, command, quick):
    """Its checkpoints and its earlier records too; what resumes comes to the results of what nothing disturbed."""

    @many(quick)
    @given(data=st.data())
    def each(data):
        try_one(resumed, command, data.draw, finished)

    each()


@pytest.fixture(scope="module")
def based(tmp_path_factory, tiny_model):
    """The folder of a finished bakeoff over a base in a folder of its own, and that base."""
    tmp = tmp_path_factory.mktemp("based")
    config = {
        "name": "based", "model": str(shutil.copytree(tiny_model, tmp / "base")), "data": write_splits(tmp),
        "entries": {"lora": {"r": 2}}, "baselines": ["base"], "tune": None, "output": str(tmp / "out"),
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1}, "generation": {"max_new_tokens": 4},
    }  # fmt: skip
    return bakeoff.run(config, display="none").folder, tmp / "base"


@pytest.mark.parametrize(("command", "quick"), {"show": 3, "watch": 3, "report": 2, "generate": 12, "run": 4}.items())
def test_a_bakeoff_whose_base_is_damaged_is_one_line(based, command, quick):
    """Results are read without the base. What needs it is refused, or is right: outputs and scores are as before."""
    folder, base = based
    right = CliRunner().invoke(main, ["generate", str(folder.path)], input="ba be bi").stdout
    before = measured(folder.path)

    @many(quick)
    @given(data=st.data())
    def each(data):
        whole = {file: file.read_bytes() for file in base.iterdir()}
        file = data.draw(st.sampled_from(sorted(whole)))
        with TemporaryDirectory(prefix="damaged-") as place:
            copy = Path(shutil.copytree(folder.path, Path(place) / "copy"))
            words = {"run": ["run", copy / "config.yaml", "-s", f"output={copy}", "--display", "none", "--trust"]}
            try:
                what = f"{command}, {damage(file, data.draw)} of {file.name}"
                with drawn(command):
                    done = invoked(words.get(command, [command, copy]))
            finally:
                shutil.rmtree(base)
                base.mkdir()
                for path, content in whole.items():
                    path.write_bytes(content)
            code, _ = judged(done, what)
            assert code == 0 or command in ("generate", "run"), what
            if command == "generate" and code == 0:
                assert done.stdout == right, what
            assert {path: path.read_bytes() for path in base.iterdir()} == whole

    each()
    assert measured(folder.path) == before


@pytest.mark.parametrize("rows", [[], ["--rows"]])
def test_any_bytes_on_standard_input_have_outputs_or_are_one_line(based, rows):
    folder, _ = based
    texts = st.binary(max_size=60) | st.text('ba be\f\n\t"{}[]:,\\u0d\ud800\x00', max_size=60).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
    lines = st.dictionaries(st.sampled_from(["document", "x"]), st.sampled_from(VALUES), max_size=2).map(
        lambda row: json.dumps(row).encode() + b"\n"
    )

    @many(10)
    @given(st.lists(texts | lines if rows else texts, max_size=3))
    def each(pieces):
        judged(invoked(["generate", folder.path, *rows], b"".join(pieces)), pieces)

    each()


def contents(folder, but):
    """Return the content of every file of a folder but one."""
    return {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path != but}


@pytest.mark.parametrize(("command", "quick"), [("plan", 30), ("run", 3)])
def test_damaged_data_or_a_damaged_config_is_one_line(tmp_path, tiny_model, command, quick):
    """A bakeoff of which any input is damaged runs, or is refused in one line; no input is changed, no folder left."""
    inputs = {f"{split}{suffix}": make_rows(count, count)
              for split, count in (("train", 20), ("validation", 6), ("test", 6))
              for suffix in (".jsonl", ".csv", ".tsv", ".parquet")}  # fmt: skip
    options = ["--display", "none", "-s", f"output={tmp_path / 'out'}"] if command == "run" else []

    @many(quick)
    @given(data=st.data())
    def each(data):
        given_data = {split: data.draw(st.sampled_from([f for f in inputs if f.startswith(split)])) for split in SPLITS}
        with TemporaryDirectory(prefix="damaged-") as place:
            for name in given_data.values():
                write(Path(place) / name, inputs[name])
            config = Path(place) / "my.json"
            config.write_text(json.dumps({
                "name": "my", "model": str(tiny_model), "data": given_data, "entries": {"last_layers": {}},
                "baselines": ["base", "lead-1"], "tune": None,
                "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1}, "generation": {"max_new_tokens": 4},
            }))  # fmt: skip
            file = Path(place) / data.draw(st.sampled_from([*given_data.values(), config.name]))
            kind = damage(file, data.draw)
            before = contents(Path(place), but=file)
            ask([command, config, *options], f"{command}, {kind} of {file.name}")
            assert contents(Path(place), but=file) == before
            shutil.rmtree(tmp_path / "out", ignore_errors=True)

    each()
