"""CSV and TSV files as people's programs write them: every row as it was written, or a line that says why not."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bakeoff.data.formats import read_rows
from bakeoff.errors import DataError
from tests.conftest import many

DOCUMENT = "The parcel, which came late, was torn; we asked for the money back."


def rows_of(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [row.values if row.fault is None else row.fault[0] for row in read_rows([path])]


HEADERS = {
    'id;"document, long, raw, text";summary': ["id", "document, long, raw, text", "summary"],
    "id;document, long;summary": ["id", "document, long", "summary"],
    "id|document|summary": ["id", "document", "summary"],
    "id\tdocument, or; text\tsummary": ["id", "document, or; text", "summary"],
}


@pytest.mark.parametrize("header", HEADERS)
def test_what_parts_the_columns_is_told_by_header_and_rows_together(tmp_path, header):
    names = HEADERS[header]
    delimiter = next(d for d in "\t|;" if d in header.replace("or;", "or"))
    body = "".join(f'{i}{delimiter}"{DOCUMENT}"{delimiter}late, and torn {i}\n' for i in range(5))
    expected = [dict(zip(names, [str(i), DOCUMENT, f"late, and torn {i}"], strict=True)) for i in range(5)]
    assert rows_of(tmp_path / "a.csv", f"{header}\n{body}") == expected


PROSE = st.lists(
    st.sampled_from(["a", "parcel", "late,", "torn;", "so|", 'box"', "it\n", "-", "we'"]), min_size=1, max_size=9
)
NAMES = st.sampled_from(["", ", raw", ";x", "|y", " text, long; of it"])


@many(150)
@given(
    st.data(), st.sampled_from(",;|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.integers(3, 5),
)  # fmt: skip
def test_texts_and_names_full_of_other_delimiters_are_read_as_written(tmp_path, data, delimiter, quoting, width):
    cells = st.tuples(*[PROSE.map(lambda words: f"x {' '.join(words)}")] * width)
    names = [f"c{i}{end}" for i, end in enumerate(data.draw(st.tuples(*[NAMES] * width)))]
    rows = data.draw(st.lists(cells, min_size=6, max_size=9))
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([names, *rows])
    assert [row.values for row in read_rows([path])] == [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("odd", ['"a 6"" pipe",s', "one, too many,s"])
@pytest.mark.parametrize("late", ["first; then", "this | that"])
def test_a_late_row_with_another_delimiter_is_no_header(tmp_path, odd, late):
    """One of twenty rows does not fit the comma, and the last of them alone would fit another sign."""
    body = "".join(f"text {i},s\n" for i in range(17))
    rows = rows_of(tmp_path / "a.csv", f"document,summary\n{body}{odd}\n{late},s\nend,s\n")
    assert rows[18:] == [{"document": late, "summary": "s"}, {"document": "end", "summary": "s"}]
    assert len(rows) == 20


PARTED = [("document", "summary"), *((DOCUMENT, f"sum {i}") for i in range(4))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_line_sep_and_a_title_stand_above_the_header(tmp_path, delimiter):
    body = "".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in PARTED)
    expected = [dict(zip(PARTED[0], row, strict=True)) for row in PARTED[1:]]
    for above in ("", f"sep={delimiter}\r\n", f"Export of 2026-01-01{delimiter}\r\n", "Export\r\n\r\n", "\ufeff"):
        assert rows_of(tmp_path / "a.csv", above + body) == expected
    (first, *_) = read_rows([tmp_path / "a.csv"])
    assert first.number == 2


def test_an_index_without_a_name_is_a_column_and_no_title(tmp_path):
    assert rows_of(tmp_path / "a.csv", ',document,summary\n0,"a, b",c\n1,d,e\n')[0] == {
        "": "0", "document": "a, b", "summary": "c",
    }  # fmt: skip
    assert rows_of(tmp_path / "a.csv", "document,summary,,\na,b,,\n")[0]["summary"] == "b"


def test_quotes_after_a_blank_are_quotes_and_blanks_in_texts_stay(tmp_path):
    text = 'document, summary\n"a, b", "c, d"\n"e", "f"\n'
    assert rows_of(tmp_path / "a.csv", text) == [
        {"document": "a, b", "summary": "c, d"}, {"document": "e", "summary": "f"},
    ]  # fmt: skip
    text = "document,summary\n  indented, code\n" + '"she said, ""no"", then", x\n'
    assert rows_of(tmp_path / "a.csv", text) == [
        {"document": "  indented", "summary": " code"}, {"document": 'she said, "no", then', "summary": " x"},
    ]  # fmt: skip


# Texts of a file without quoting, none of which a writer with quoting would have written so.
UNQUOTED = {
    "a quote is opened in one row and closed in another": [
        ("one", "a"), ('"Never again, said the mayor.', "b"), ("two, three", "c"), ('and that was all."', "d"),
    ],
    "a word in quotes begins a text": [('"Yes" he said', "a"), ("no", "b")],
    "whole texts are quotations": [("one, two", '"Hello there."'), ("three, four", "bye")],
    "the last text is one": [("one, two", "bye"), ("three", '"Hello')],
    "all with a comma is a quotation, and another goes on": [('"Yes, sir"', "a"), ('"No" he said', "b")],
}  # fmt: skip


@pytest.mark.parametrize("name", UNQUOTED)
@pytest.mark.parametrize("file", ["a.tsv", "a.csv"])
def test_a_tsv_without_quoting_keeps_its_rows_and_quotes(tmp_path, name, file):
    rows = UNQUOTED[name]
    text = "document\tsummary\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert rows_of(tmp_path / file, text) == [{"document": d, "summary": s} for d, s in rows]


WRITERS = {
    "minimal": {"quoting": csv.QUOTE_MINIMAL}, "all": {"quoting": csv.QUOTE_ALL}, "windows": {"lineterminator": "\r\n"},
}  # fmt: skip
LETTERS = ['"', ",", " ", "a", "b", "\u00e9"]


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(WRITERS)), st.sampled_from("\t\n"))
def test_a_tsv_with_quoting_is_read_as_written(tmp_path_factory, data, writer, special):
    cells = st.text(st.sampled_from([*LETTERS, special]), min_size=1, max_size=8)  # both at once may be rows as well
    rows = data.draw(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6))
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", **WRITERS[writer]).writerows([("document", "summary", "x"), *rows])
    assert [row.values for row in read_rows([path])] == [
        dict(zip(("document", "summary", "x"), row, strict=True)) for row in rows
    ]


@pytest.mark.parametrize("last", ["\na", "\n\n", "b\na b\n\nc"])
def test_a_line_break_in_the_last_field_of_a_tsv_ends_no_row(tmp_path, last):
    rows = [{"document": "a", "summary": "b", "x": last}, {"document": "c", "summary": "d", "x": "e"}]
    text = f'document\tsummary\tx\na\tb\t"{last}"\nc\td\te\n'
    assert rows_of(tmp_path / "a.tsv", text) == rows


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_blank_before_the_quote_that_ends_a_field_is_none_before_one_that_begins_it(tmp_path, end):
    text = f'document\tsummary\tnote\na\t \t" ""\t "{end}'
    assert rows_of(tmp_path / "a.tsv", text) == [{"document": "a", "summary": " ", "note": ' "\t '}]


def test_rows_in_quotes_each_of_which_is_one_are_told(tmp_path):
    text = 'document\tsummary\n"He said ""no""."\ta\n"one\tb\ntwo\tc\nthree"\td\nfour\te\n'
    first, second, third = rows_of(tmp_path / "a.tsv", text)
    assert (first["document"], second, third["summary"]) == ('He said "no".', "several rows in quotes", "e")
    fault = list(read_rows([tmp_path / "a.tsv"]))[1].fault
    assert fault[1].startswith("double quotes join lines 3 to 5 into one row")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'document,summary\n"He said \\"no\\", then",a\n', r"a.csv:2: not CSV .* Put a text that contains a double"),
        (b"document,summary\ra,b\rc,d\r", r"a.csv:1: not CSV .*Try: tr '\\r' '\\n' < OLD > NEW"),
        ("document,summary\na,b\n".encode("utf-32-be"), "a.csv:1: not UTF-8 text, but UTF-32BE. Set data.encoding"),
        ("document,summary\na,b\n".encode("utf-16-le"), "a.csv:1: not UTF-8 text, but UTF-16LE. Set data.encoding"),
        ("document,summary\na,b\n".encode("utf-16"), "a.csv:1: not UTF-8 text, but UTF-16. Set data.encoding"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a.csv: a git-lfs pointer, .* Try: git"),
        (b'document,summary\na,b\n"' + b"x" * (2**25 + 9), "a.csv:3: a line longer than 33,554,432 bytes"),
        (b'document,summary\na,b\n"' + (b"x" * 1023 + b"\n") * 2**16, "a.csv:3: not CSV .field larger"),
        (b"document,summary" * 2**22, "a.csv:1: a line longer than 33,554,432 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_csv_says_what_to_do_and_ends(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows([tmp_path / "a.csv"]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
