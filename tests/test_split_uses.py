"""A test split that is used again is counted, once per run, and said."""

from bakeoff.store.split_uses import earlier_uses, file_of, note_uses, reuse_note


def test_runs_on_a_test_split_are_counted_once_and_only_those_of_other_plans_are_told(copied, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    ours = [run.id for run in copied.runs() if run.kind == "entry"]
    assert reuse_note(copied, ours) == []
    for _ in range(2):  # resumed, or reported again
        note_uses(copied, ours)
    assert file_of(copied).read_text().split() == sorted(ours)
    assert reuse_note(copied, ours) == []
    note_uses(copied, ["other-1", "other-2"])
    assert reuse_note(copied, ours)[0].startswith("2 final runs of other bakeoffs or settings were scored on this test")
    assert reuse_note(copied, []) != []


def test_without_a_place_or_a_known_split_nothing_is_counted(copied, monkeypatch, tmp_path):
    for home in ("state", "/proc/no home"):
        monkeypatch.setenv("XDG_STATE_HOME", home)
        note_uses(copied, ["a"])
        assert earlier_uses(copied, []) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    copied.made_file.write_text('{"files": {"data/test.jsonl": "../../key"}}')
    note_uses(copied, ["a"])
    assert not (tmp_path / "state").exists()
