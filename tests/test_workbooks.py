"""Excel files: the rows of a sheet as a CSV of it would give them, and whatever a file does is rows or one line."""

import datetime
import re
import zipfile

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data import sheets
from bakeoff.data.formats import read_rows
from bakeoff.data.sources import load_examples
from bakeoff.data.streams import Reading
from bakeoff.errors import DataError
from tests.conftest import make_rows, many
from tests.test_damage import assert_damage_is_rows_or_one_line, in_one_line

SPLITS = ("train", "validation", "test")


def workbook(path, **sheets):
    """Write sheets, each a list of rows of cells; return the path."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def table(rows):
    return [[*rows[0]], *([*row.values()] for row in rows)]


def edited(path, name, change):
    """Change a part of a workbook's file."""
    with zipfile.ZipFile(path) as file:
        parts = {part: file.read(part) for part in file.namelist()}
    parts[name] = change(parts[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for part, content in parts.items():
            file.writestr(part, content)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def rows_of(path, part=None):
    return [row.values for row in read_rows([path], Reading(part=part))]


def test_cells_are_the_texts_that_a_csv_would_have(tmp_path):
    cells = [3, 3.0, 0.5, True, datetime.datetime(2024, 1, 31), datetime.datetime(2024, 1, 31, 9, 5), None, "  a\nb "]
    path = workbook(tmp_path / "a.xlsx", S=[["document", "value"], *([f"d{i}", cell] for i, cell in enumerate(cells))])
    texts = ["3", "3", "0.5", "TRUE", "2024-01-31", "2024-01-31 09:05:00", "", "  a\nb "]
    assert rows_of(path) == [{"document": f"d{i}", "value": text} for i, text in enumerate(texts)]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8).filter(
    lambda text: text.strip() and not text.startswith("=") and "_x" not in text
)


@many(25)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.integers(0, 2))
def test_texts_are_read_as_they_were_written(tmp_path, rows, above):
    title = [["A title"]] * above
    path = workbook(tmp_path / "a.xlsx", S=[*title, ["document", "summary"], *rows])
    assert rows_of(path) == [dict(zip(("document", "summary"), row, strict=True)) for row in rows]


def test_titles_blank_rows_and_notes_are_no_data_and_rows_keep_their_numbers(tmp_path):
    rows = [["Complaints 2024"], [], ["document", "summary", None], ["a", "b", "a note"], [None, " "], ["c", "d"]]
    path = workbook(tmp_path / "a.xlsx", S=rows)
    found = list(read_rows([path]))
    assert [row.values for row in found] == [{"document": "a", "summary": "b"}, {"document": "c", "summary": "d"}]
    assert [str(row) for row in found] == [f"{path} (S): row 4", f"{path} (S): row 6"]


def test_a_merged_cell_is_in_its_first_row_and_the_others_are_said_to_be_empty(tmp_path):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"], ["c", None], ["d", "e"]])
    book = openpyxl.load_workbook(path)
    book["S"].merge_cells("B2:B3")
    book.save(path)
    with pytest.raises(DataError, match=r"a.xlsx \(S\): row 3: column 'summary' is empty"):
        load_examples(DataConfig(train=str(path)))


def test_a_formula_is_what_excel_stored_for_it(tmp_path):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", '=CONCAT("x","y")']])
    stored = b't="str"><f>CONCAT("x","y")</f><v>xy</v></c>'
    edited(path, SHEET, lambda xml: re.sub(rb"><f>CONCAT.*?</f><v\s*/?>(</v>)?</c>", b" " + stored, xml))
    assert rows_of(path) == [{"document": "a", "summary": "xy"}]


def test_sheets_are_splits_by_name_and_one_may_be_named(tmp_path):
    made = {split: make_rows(5 + i, i) for i, split in enumerate(SPLITS)}
    path = workbook(tmp_path / "a.xlsx", Notes=[], **{split.title(): table(rows) for split, rows in made.items()})
    splits = load_examples(DataConfig(source=str(path)))[0]
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 5, "validation": 6, "test": 7}
    splits = load_examples(DataConfig(source=str(path), validation="Test"))[0]
    assert [e.document for e in splits["validation"]] == [row["document"] for row in made["test"]]
    for config, message in (
        ({"train": str(path)}, r"several sheets with rows \(Train, Validation, Test\). Set data.source to this file"),
        ({"source": str(path), "train": "Trian"}, "no sheet 'Trian'. Did you mean 'Train'"),
        ({"source": str(path), "revision": "v1"}, "only hub datasets have one, and data.source is a path"),
    ):
        with pytest.raises(DataError, match=message):
            load_examples(DataConfig(**config))


def test_the_only_sheet_with_rows_is_all_examples(tmp_path):
    path = workbook(tmp_path / "a.xlsx", Info=[["about this file"]], Cases=table(make_rows(60, 1)))
    for config in (DataConfig(train=str(path)), DataConfig(source=str(path))):
        assert sum(map(len, load_examples(config)[0].values())) == 60
    file = tmp_path / "c.yaml"
    file.write_text("data: {source: a.xlsx}\nentries: [lora]\n")
    assert load_config(file).data.source == str(path)


def empty_rows(xml):
    return xml.replace(b"</sheetData>", b"".join(b'<row r="%d"/>' % i for i in range(3, 100_000)) + b"</sheetData>")


def test_empty_rows_are_none(tmp_path):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"]])
    edited(path, SHEET, empty_rows)
    assert rows_of(path) == [{"document": "a", "summary": "b"}]


HOSTILE = {
    "a row beyond the last": (SHEET, b'<row r="999999999"><c r="A999999999"/></row>', "a row beyond 1,048,576"),
    "a cell that is none": (SHEET, b'<row r="3"><c r="A3" t="s"><v>77</v></c></row>', "not a complete .xlsx file"),
    "a bomb": (SHEET, b" " * 120_000_000, "unpacks to more than 100 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sheet_is_one_line_in_good_time(tmp_path, name):
    part, content, message = HOSTILE[name]
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"]])
    edited(path, part, lambda xml: xml.replace(b"</sheetData>", content + b"</sheetData>"))
    said = in_one_line(lambda: rows_of(path))[1]
    assert said.startswith(str(path))
    assert message in said


def test_wide_rows_that_are_nearly_empty_are_one_line_in_good_time(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"]])
    wide = b"".join(b'<row r="%d"><c r="XFD%d"/></row>' % (i, i) for i in range(3, 10))
    edited(path, SHEET, lambda xml: xml.replace(b"</sheetData>", wide + b"</sheetData>"))
    assert rows_of(path) == [{"document": "a", "summary": "b"}]
    monkeypatch.setattr(sheets, "CELLS", 100_000)
    assert "(S): more than 100,000 cells. Try: delete the empty columns" in in_one_line(lambda: rows_of(path))[1]


def test_entities_that_grow_are_one_line(tmp_path):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"]])
    grow = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    declared = f'<!DOCTYPE x [<!ENTITY a0 "lol">{grow}]>'.encode()
    end = b'<row r="3"><c r="A3" t="inlineStr"><is><t>&a9;</t></is></c></row></sheetData>'
    edited(path, SHEET, lambda xml: declared + xml.replace(b"</sheetData>", end))
    assert "not a complete .xlsx file" in in_one_line(lambda: rows_of(path))[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "not a complete .xlsx file"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "encrypted, or of the old format .xls. Try: save it as .xlsx"),
        (b"", "not a complete .xlsx file"),
    ],
)
def test_what_is_no_workbook_says_so(tmp_path, content, message):
    (tmp_path / "a.xlsx").write_bytes(content)
    assert message in in_one_line(lambda: rows_of(tmp_path / "a.xlsx"))[1]


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "document"], ["a", "b"]])
    assert "two columns are named 'document'" in in_one_line(lambda: rows_of(path))[1]


def test_a_damaged_workbook_is_its_rows_or_one_line(tmp_path):
    file = workbook(tmp_path / "a.xlsx", S=table(make_rows(30, 1)))
    assert_damage_is_rows_or_one_line(file, file.read_bytes(), 60)


def test_without_openpyxl_it_says_what_to_install(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", S=[["document", "summary"], ["a", "b"]])
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"Excel files need openpyxl. Try: pip install 'bakeoff\[excel\]'"):
        rows_of(path)
