"""What a template may compute: nothing before there is a row, nothing without an end, and no Python object as text."""

import datetime
import time
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.config.templates import RowTemplate, TooMuchError, target_template
from bakeoff.data.sources import load_examples
from bakeoff.errors import BakeoffError, DataError
from tests.conftest import make_rows
from tests.test_formats import write

TEXT = "abcabc def"


def loops(depth, over, body=""):
    """Loops in loops; `over` says what each goes over, by its depth."""
    starts = "".join(f"{{% for v{i} in {over(i)} %}}" for i in range(depth))
    return starts + body + "{% endfor %}" * depth


ENDLESS = {
    "digits": "{{ 1|round(1000000000, 'ceil') }}{{ x }}",
    "digits before the point": "{{ 5|round(-1000000000) }}{{ x }}",
    "a chain of replace": "{{ 'a'" + "|replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaaaa')" * 30 + " }}{{ x }}",
    "replace of nothing": "{{ x" + "|replace('', 'aaaaaaaaaaaaaaaaaaaaaaaaaa')" * 30 + " }}",
    "join": "{{ x" + "|list|join(x)" * 20 + " }}",
    "loops in loops": loops(15, lambda _: "x"),
    "texts that double": loops(18, lambda i: f"[v{i - 1} ~ v{i - 1}~v{i - 1}]" if i else "[x ~ x]", "{{ v17[:1] }}"),
    "lists that double": loops(18, lambda i: f"[v{i - 1} + v{i - 1}]" if i else "[x|list]"),
    "lists of texts": loops(18, lambda i: f"[v{i - 1}|join(x)]" if i else "[x]"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_computes_nothing_without_an_end(name):
    source = ENDLESS[name]
    tracemalloc.start()
    started = time.process_time()
    try:
        load_config({"data": {"train": "a"}, "entries": ["lora"], "target": source})  # as show and watch do
        with pytest.raises(BakeoffError, match=r"takes more than 1,000,000 steps for one row|digits. Allowed: up to"):
            target_template(source).text({"x": TEXT})
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
        assert time.process_time() - started < 30
    finally:
        tracemalloc.stop()


def test_a_template_without_an_end_is_tried_with_one_row_alone(tmp_path):
    rows = [{"document": f"{TEXT} {i}", "summary": "a"} for i in range(50)]
    data = DataConfig(train=str(write(tmp_path / "a.csv", rows)), unusable="drop")
    with pytest.raises(DataError, match=r"data.train: .*a.csv:2: target: takes more than 1,000,000 steps"):
        load_examples(data, None, loops(9, lambda _: "document"))
    with pytest.raises(TooMuchError):
        target_template(loops(9, lambda _: "x")).text({"x": TEXT})


def test_a_template_is_not_computed_while_it_is_compiled(monkeypatch):
    from bakeoff.config import sandbox

    def no_filter(*_):
        raise AssertionError("computed")

    template = RowTemplate.__new__(RowTemplate)
    monkeypatch.setitem(sandbox.environment().filters, "upper", no_filter)
    template.__init__("{{ 'a' | upper }}{{ x }}")
    with pytest.raises(AssertionError, match="computed"):
        next(iter(template._template.generate({"x": "b"})))


@pytest.mark.parametrize(
    "source",
    [
        "{{" + "(" * 3000 + "x" + ")" * 3000 + "}}", "{{" + "[" * 3000 + "x" + "]" * 3000 + "}}",
        "{{" + "-" * 5000 + "1}}", "{{ x" + "[0]" * 2000 + "}}", "{{ x" + "|list" * 1500 + "}}",
        "{{ x }}{{" + "9" * 9000 + "}}", "{{ x }}{{ 1e999 }}", loops(25, lambda _: "x"),
    ],
)  # fmt: skip
def test_a_template_that_no_compiler_takes_is_refused(source):
    with pytest.raises(BakeoffError, match=r"not a template|too large") as caught:
        load_config({"data": {"train": "a"}, "entries": ["lora"], "target": source})
    assert "\n" not in str(caught.value)


def test_names_of_python_are_columns_and_no_methods(tmp_path):
    rows = [{**row, "order": {"items": f"two {i}", "values": "v"}} for i, row in enumerate(make_rows(30, 1))]
    found = []
    for name in ("a.json", "a.jsonl", "a.parquet"):
        data = DataConfig(train=str(write(tmp_path / name, rows)))
        splits = load_examples(data, "{{ order.items }}/{{ order['values'] }}: {{ document }}", "{{ order.items }}")[0]
        found.append({e.document: (e.around, e.summary) for split in splits.values() for e in split})
    assert found[0] == found[1] == found[2]
    assert found[0] == {row["document"]: ((f"two {i}/v: ", ""), f"two {i}") for i, row in enumerate(rows)}


ROW = {
    "order": {"items": "two"}, "words": ["p", "q"], "x": TEXT, "empty": None, "raw": b"x",
    "days": datetime.timedelta(1), "day": datetime.date(2024, 1, 2), "price": Decimal("1.50"),
    "Chat Topic": "harbour", "for": "f", "true": "t",
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ order.get }}", "no attribute 'get'"),
        ("{{ order.keys }}", "no attribute 'keys'"),
        ("{{ x.upper }}", "no attribute 'upper'"),
        ("{{ words.append }}", "no attribute 'append'"),
        ("{% for a in words %}{{ loop.cycle }}{% endfor %}", "no attribute 'cycle'"),
        ("{{ order | upper }}", "a column contains keys and values, not text"),
        ("{{ order ~ x }}", "a column contains keys and values, not text"),
        ("{{ words ~ x }}", "a column contains a list, not text"),
        ("{{ words | title }}", "a column contains a list, not text"),
        ("{{ [order] | join }}", "a column contains keys and values, not text"),
        ("{{ words | replace('p', 'q') }}", "a column contains a list, not text"),
        ("{{ x | replace('a', words) }}", "a column contains a list, not text"),
        ("{{ empty | lower }}", "a column is empty"),
        ("{{ raw }}", "a column contains bytes, not text"),
        ("{{ days }}", "a column contains timedelta, not text"),
        ("{{ x | charged }}", "unknown filter 'charged'"),
        ('{{ row["Chat topic"] }}', "no column 'Chat topic'. Did you mean 'Chat Topic'"),
        ("{{ row[x] }}", "no column 'row'. Name one column of the row, as in row"),
        ("{{ row }}", "no column 'row'. Name one column of the row, as in row"),
    ],
)
def test_what_is_no_text_never_stands_in_one(source, message):
    with pytest.raises(BakeoffError, match=message):
        target_template(source).text(ROW)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ order.items }}", "two"),
        ('{{ row["Chat Topic"] }}, {{ row["for"] }}{{ row.true }}', "harbour, ft"),
        ('{{ row["empty"] or "-" }}{{ gone | default("+") }}{{ row["gone"] is defined }}', "-+False"),
        ("{{ day }} {{ price }} {{ 2.345 | round(1) }}", "2024-01-02 1.50 2.3"),
        ("{% for a in words %}{{ loop.index }}{{ a }}{{ ',' if not loop.last }}{% endfor %}", "1p,2q"),
        ("{{ words | reverse | join('-') }} {{ words | unique | length }}", "q-p 2"),
        ("{{ words[0] ~ words[1:] | join }}", "pq"),
        ("{{ x | title | replace('Abc', 'z', 1) }} {{ x | truncate(4, true, '') }}", "zabc Def abca"),
    ],
)  # fmt: skip
def test_what_a_template_may_do(source, expected):
    assert target_template(source).text(ROW) == expected


def test_a_column_called_row_is_that_column():
    assert target_template("{{ row }}").text({"row": "a", "b": "c"}) == "a"
    assert target_template("{{ row.b }}").text({"row": {"b": "d"}, "b": "c"}) == "d"


def test_the_summary_of_a_row_is_the_named_column(tmp_path):
    rows = [{"a": f"doc {i}", "b": f"sum {i}", "summary": "other", "Chat Topic": "t"} for i in range(30)]
    data = DataConfig(train=str(write(tmp_path / "a.parquet", rows)), document="a", summary="b")
    target = '{{ summary }} {{ row["summary"] }} {{ row["Chat Topic"] }}'
    train = load_examples(data, None, target)[0]["train"]
    assert {e.summary for e in train} == {f"sum {e.document[4:]} other t" for e in train}


PIECES = st.sampled_from([
    "{{ x }}", "{{", "}}", "{%", "%}", " x ", "words", "order", ".items", "|join(x)", "|replace('a', x)", "|list",
    "|sort", " ~ ", "+", "[0]", "[1:]", "{% for a in x %}", "{% endfor %}", "{% if x %}", "{% endif %}", "|round(99)",
    "|int", "|string", "1e9", "row", '["Chat Topic"]', "|truncate(3)", " is in words", " in ", "(", ")", "'",
    "|default(x)", "|d", "- ", "not ", "for",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=30))
def test_any_template_makes_a_text_of_a_row_or_says_why_not(pieces):
    try:
        made = RowTemplate("".join(pieces)).text(ROW)
    except BakeoffError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what passes is fine too
    else:
        assert not any(word in made for word in (" object at 0x", "<built-in", "<bound", "timedelta("))
