"""Standard streams that are closed or full: one line, the documented exit code, nothing half-written."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bakeoff.cli.init import write_new
from bakeoff.cli.main import main
from bakeoff.errors import ConfigError
from bakeoff.progress.plain import PlainDisplay
from bakeoff.report import writing
from bakeoff.store import checksums

BAKEOFF = f"{sys.executable} -m bakeoff.cli.main"


def shell(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["show DIR", "show DIR --json", "methods", "--help", "report --help"])
@pytest.mark.parametrize(("stream", "said"), [(">/dev/full", "No space left on device"), (">&-", "is closed")])
def test_output_that_cannot_be_written_is_one_line_and_exit_2(shared, command, stream, said):
    out = shell(f"{BAKEOFF} {command.replace('DIR', str(shared[1].folder.path))} {stream}")
    assert out.returncode == 2
    assert out.stderr.startswith("bakeoff: standard output")
    assert said in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_a_closed_standard_input_is_an_empty_one(shared):
    out = shell(f"{BAKEOFF} generate {shared[1].folder.path} <&-")
    assert out.returncode == 2
    assert out.stderr == "bakeoff: generate: nothing on standard input. Try: bakeoff generate DIR < document.txt\n"


def test_a_closed_or_full_standard_error_loses_its_lines_and_nothing_else(shared):
    for stream in ("2>&-", "2>/dev/full"):
        out = shell(f"{BAKEOFF} show {shared[1].folder.path} {stream}")
        assert (out.returncode, "lora" in out.stdout) == (0, True)
        assert shell(f"{BAKEOFF} show /nowhere {stream}").returncode == 2
        assert shell(f"{BAKEOFF} show /nowhere {stream}").stdout == ""


def test_progress_that_cannot_be_written_ends_no_bakeoff(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with PlainDisplay([]) as screen:
        screen.note("a line")


def test_a_full_disk_leaves_no_half_of_a_config(tmp_path, monkeypatch):
    target = tmp_path / "bakeoff.yaml"
    target.touch()
    with pytest.raises(ConfigError, match="never overwritten"):
        write_new(target, "name: a\n")
    target.unlink()
    opened = Path.open

    def full(path, *arguments, **options):
        file = opened(path, *arguments, **options)
        file.write("na")
        file.flush()

        def write(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = write
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match=r"bakeoff.yaml: cannot be written \(No space left on device\)"):
        write_new(target, "name: a\n")
    monkeypatch.undo()
    write_new(target, "name: a\n")
    assert target.read_text() == "name: a\n"


def test_a_comparison_that_met_a_full_disk_can_be_written_again(copied, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    command = ["report", str(copied.path), "-o", str(page)]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_text", full)
    failed = CliRunner().invoke(main, command)
    assert failed.exit_code == 2
    assert "No space left on device. Try: -o PAGE.html" in failed.stderr
    assert not page.exists()
    monkeypatch.undo()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert page.exists()


@pytest.mark.usefixtures("figures")
def test_report_of_one_folder_writes_where_it_is_told(copied, tmp_path):
    before = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}
    page = tmp_path / "x.html"
    done = CliRunner().invoke(main, ["report", str(copied.path), "-o", str(page)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{page}\n"
    assert 'href="x-figures/' in page.read_text()
    assert "judged together" not in page.read_text()
    assert {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file()} == before


def test_show_as_json_has_the_preferred_entry(shared):
    shown = json.loads(
        CliRunner().invoke(main, ["show", str(shared[1].folder.path), "--json", "--prefer", "size"]).stdout
    )
    assert shown["preferred"]["for"] == "size"
    assert shown["preferred"]["entry"] == shown["verdict"]["recommendations"]["size"]
    assert shown["preferred"]["text"].startswith("Preferring size: ")
    assert shutil.which("sh")


def test_what_the_system_refuses_is_one_line(copied, monkeypatch):
    """A name that is too long for it, a disk that fails, and whatever else it may say of a file."""
    for command in ("show", "watch", "report", "generate", "run", "plan"):
        said = CliRunner().invoke(main, [command, "a" * 300])
        assert (said.exit_code, len(said.stderr.splitlines())) == (2, 1), said.output

    def fails(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(checksums, "open_file", fails)
    for command in ("show", "watch", "report", "generate"):
        said = CliRunner().invoke(main, [command, str(copied.path)])
        assert (said.exit_code, len(said.stderr.splitlines())) == (2, 1), said.output


@pytest.mark.parametrize("command", ["init /tmp/train.csv", "plan /tmp/bakeoff.yaml", "show /tmp"])
def test_a_working_folder_that_was_removed_is_one_line(tmp_path, command):
    out = shell(f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && {BAKEOFF} {command}")
    assert out.returncode == 2
    assert out.stderr == "bakeoff: the working folder does not exist any more. Try: cd to another folder\n"
