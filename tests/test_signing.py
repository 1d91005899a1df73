"""Results count as they were written only where this user wrote them; a key is taken from no folder one stands in."""

import json

from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.results import load_results
from bakeoff.store.checksums import SEAL, sealed
from bakeoff.store.signature import signature, signed, unsigned


def test_results_of_another_shape_are_made_again_however_well_they_are_sealed(copied):
    """A forger seals what `show` then looks up: a traceback, or numbers that no record has."""
    right = load_results(copied.path).document
    written = json.loads(copied.results_file.read_text())
    content = {key: value for key, value in written.items() if key != SEAL}
    for forged in ({**content, "entries": {}}, {"records": right.records}, {**content, "signature": None}):
        copied.results_file.write_text(json.dumps(sealed(forged)))
        assert load_results(copied.path).document == right
    shown = CliRunner().invoke(main, ["show", str(copied.path)])
    assert (shown.exit_code, "lora" in shown.stdout) == (0, True)


def test_results_that_this_user_wrote_are_not_made_again(copied, monkeypatch):
    monkeypatch.setattr("bakeoff.analysis.summary.summarize", None)
    document = load_results(copied.path).document.row()
    assert SEAL not in document
    assert "signature" not in document
    assert unsigned(signed(document)) == document


def test_a_key_that_lies_in_the_working_folder_is_nobodys(tmp_path, monkeypatch):
    """Without a home "~" is a folder's name: the key would be made there, or a stranger's be found there."""
    monkeypatch.chdir(tmp_path)
    for place in ("~/.local/state", "state"):
        (tmp_path / place / "bakeoff").mkdir(parents=True)
        (tmp_path / place / "bakeoff/key").write_bytes(b"k" * 32)
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert signature(b"config") is None
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user id that no list of users has
    assert signature(b"config") is None


def test_a_key_that_is_no_key_signs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert len(signature(b"config") or "") == 64
    assert [file.name for file in (tmp_path / "bakeoff").iterdir()] == ["key"]
    (tmp_path / "bakeoff/key").write_bytes(b"")
    assert signature(b"config") is None
