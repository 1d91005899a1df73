"""A run folder of another version is refused in one line."""

import json

import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.cli.main import main
from bakeoff.store.checksums import sealed
from bakeoff.store.events import event_of
from bakeoff.store.results_document import stored_results
from bakeoff.store.schema import SCHEMA
from bakeoff.store.signature import signed


def read(file):
    return json.loads(file.read_text())


def change(file, **values):
    """Write a document again with other values; None takes a key away."""
    document = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


@pytest.mark.parametrize("command", ["show", "report", "watch", "run"])
@pytest.mark.parametrize(("schema", "form"), [(SCHEMA + 1, "a newer"), (SCHEMA - 1, "an older"), (None, "an older")])
def test_a_folder_of_another_form_is_refused_and_left_as_it_is(copied, command, schema, form):
    change(copied.plan_file, schema=schema, version="9.1", epochs="until it is best")
    before = {file: file.read_bytes() for file in copied.path.rglob("*") if file.is_file()}
    done = CliRunner().invoke(main, [command, str(copied.config_file if command == "run" else copied.path)])
    lines = [line for line in done.output.splitlines() if line.strip()]
    assert done.exit_code == 2, done.output
    assert len(lines) == 1
    assert f"{copied.plan_file}: made by bakeoff 9.1 in {form} form (schema {schema or 1})" in lines[0]
    assert ("Try: pip install 'bakeoff>=9.1', or -s output=" in lines[0]) == (form == "a newer")
    assert "-s output=FOLDER, another folder" in lines[0]
    assert {file: file.read_bytes() for file in before} == before


def test_results_in_another_form_are_made_again_from_the_records(copied):
    whole = bakeoff.load_results(copied.path).document
    copied.results_file.write_text(json.dumps(sealed(signed({"records": copied.content_hash(), "entries": []}))))
    assert bakeoff.load_results(copied.path).document == whole


def test_every_document_of_a_folder_is_of_its_schema_and_comes_back_as_it_was(shared):
    folder, document = shared[1].folder, shared[1].document
    assert stored_results(json.loads(json.dumps(document.row()))) == document
    rows = [*document.rows.values(), *(trial for row in document.entries.values() for trial in row.tuning.trials)]
    assert not any(part.model_extra for part in (document, document.verdict, *document.verdict.pairs, *rows))
    assert json.dumps(folder.plan().row(), sort_keys=True) == json.dumps(read(folder.plan_file), sort_keys=True)
    lines = folder.events_file.read_text().splitlines()
    assert [json.dumps(event_of(json.loads(line)).row(), sort_keys=True) for line in lines] == [
        json.dumps(json.loads(line), sort_keys=True) for line in lines
    ]


def test_a_result_of_another_form_is_seen():
    with pytest.raises(ValueError, match="^name: "):
        stored_results({"schema": SCHEMA, "name": 3})
    with pytest.raises(ValueError, match="kind"):
        event_of({"time": 1.0, "kind": "noise"})
