"""JSON outputs: validity by the whole output, and F of fields against a slow count."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.data.examples import Example
from bakeoff.scoring.json_fields import fields_of
from bakeoff.scoring.metrics import blind_spots, score_outputs, signature
from tests.conftest import many

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, 0.5, "1", "a", "b", ""])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def row(output, *references):
    return score_outputs(["json"], [output], [[*references]])[0][0]


def slow(value, path=()):
    """Return the fields of a value as a list."""
    if isinstance(value, dict) and value:
        return [field for key, inner in value.items() for field in slow(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [field for inner in value for field in slow(inner, (*path, None))]
    return [(path, type(value).__name__ if isinstance(value, bool | None | str) else "", value)]


@many(200)
@given(VALUES, VALUES, st.sampled_from([None, 2]))
def test_fields_are_counted_as_a_slow_count_does(output, reference, indent):
    found = row(json.dumps(output, indent=indent), json.dumps(reference))
    own, wanted = slow(output), slow(reference)
    left, common = list(wanted), 0
    for field in own:
        if field in left:
            left.remove(field)
            common += 1
    p, r = common / len(own), common / len(wanted)
    assert found["json_valid"] == 1
    f = 2 * p * r / (p + r) if common else 0
    assert found["json_f1"] == {"p": pytest.approx(p), "r": pytest.approx(r), "f": pytest.approx(f)}


@many(100)
@given(VALUES)
def test_a_text_equals_itself_in_any_order_and_layout(value):
    text = json.dumps(value)
    assert row(json.dumps(value, indent=1, sort_keys=True), text)["json_f1"]["f"] == pytest.approx(1)
    if isinstance(value, list):
        assert row(json.dumps(value[::-1]), text)["json_f1"]["f"] == pytest.approx(1)


@pytest.mark.parametrize(
    "output",
    ["", "{", "{'a': 1}", '{"a": 1} ok', "```json\n{}\n```", "NaN", '{"a": NaN}', "[" * 100_000, "1" * 5000, "\ud800"],
)
def test_what_is_not_json_is_not_valid_and_scores_nothing(output):
    assert row(output, '{"a": 1}') == {"json_valid": 0.0, "json_f1": {"p": 0.0, "r": 0.0, "f": 0.0}}


@pytest.mark.parametrize(
    ("output", "reference", "f"),
    [
        ('{"a": 1}', '{"a": 1.0}', 1), ('{"a": true}', '{"a": 1}', 0), ('{"a": "1"}', '{"a": 1}', 0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5), ('{"a": []}', '{"a": {}}', 0),
        ('{"a": {"b": 1}}', '{"b": 1}', 0),
        ('{"a": [1, 1]}', '{"a": [1]}', 2 / 3),
    ],
)  # fmt: skip
def test_fields_by_hand(output, reference, f):
    assert row(output, reference)["json_f1"]["f"] == pytest.approx(f)


def test_the_nearest_reference_counts_and_one_that_is_no_json_is_a_finding():
    assert row('{"a": 1}', "text", '{"a": 2}', '{"a": 1}')["json_f1"]["f"] == 1
    assert "JSON: whole output" in signature(["json"], several=True)
    (line,) = blind_spots(["json"], [Example("1", "d", '{"a": 1}'), Example("2", "d", "plain words")])
    assert line.startswith("metrics: json: ")
    assert line.endswith("it is not JSON. Try exact_match or token_f1")
    assert fields_of("{}") == {((), "{}"): 1}
