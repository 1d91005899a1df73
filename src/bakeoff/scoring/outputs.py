"""Scores all outputs of a run: its rows of predictions, and the means over them. Loads no model."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bakeoff.config.names import is_function
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import plain
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.scoring.custom import MetricError
from bakeoff.scoring.lengths import LENGTHS
from bakeoff.scoring.metric import Rows
from bakeoff.scoring.metrics import columns_of, current_rules, is_plain, score_outputs, value_of
from bakeoff.store.content_hash import hash_of
from bakeoff.store.documents import PredictionRow
from bakeoff.store.events import Emit, State
from bakeoff.store.plan_document import PlanDocument


def references_of(test: Sequence[Example], plan: PlanDocument) -> list[list[str]]:
    """Return the references of each test example, as outputs are compared with them."""
    indented = INDENT in plan.texts
    return [[plain(text, indented) for text in e.references or [e.summary]] for e in test]


def scored(
    names: Sequence[str], plan: PlanDocument, test: Sequence[Example], outputs: Sequence[str],
    beside: Sequence[Mapping[str, Any]], begins: Callable[[str], object] = bool,
) -> tuple[list[PredictionRow], dict[str, float]]:  # fmt: skip
    """Return a row per test example, and the means `test/...` over them, by all the metrics named.

    `beside` is what else the rows have: LENGTHS, and the loss where there is one. `begins` is called with each metric
    before it scores. Raises MetricError where a metric gives no score, or its code is not the one of the plan.
    """
    columns = [columns_of(example) for example in test]
    scores, corpus = score_outputs(names, outputs, references_of(test, plan), begins, columns)
    check_code(names, plan, test)
    parts = zip(test, outputs, scores, beside, strict=True)
    rows = [PredictionRow.model_validate({"id": e.id, "output": o, **s, **more}) for e, o, s, more in parts]
    found = {**means(scores), **corpus, **{name: sum(row[name] for row in beside) / len(beside) for name in LENGTHS}}
    return rows, {f"test/{name}": value for name, value in found.items()}


def check_code(names: Sequence[str], plan: PlanDocument, test: Sequence[Example]) -> None:
    """Raise MetricError where a function's code, or a metric's model, is not the one that the plan was made with.

    It is called after the scores are made, so that an edit at any moment since the plan is noticed.
    """
    of_files = [name for name in names if not is_plain(name)]
    if of_files and hash_of(current_rules(names, test)) != plan.scoring:
        what = "code was edited" if any(map(is_function, of_files)) else "model has changed"
        raise MetricError(
            f"metrics: {', '.join(of_files)}: the {what} after this bakeoff had started, so its scores are not kept. "
            "Run the same command again"
        )


def tell_function(run_id: str, emit: Emit, name: str) -> None:
    """Tell that a function of the user's, or a model, scores: should it never end, it is named."""
    if not is_plain(name):
        emit(State(run=run_id, state="scoring", metric=name))


def means(scores: Rows) -> dict[str, float]:
    """Return the mean of each score over the outputs; one with precision and recall has three."""
    found = {}
    for name, first in scores[0].items():
        if isinstance(first, dict):
            for letter, suffix in (("f", ""), ("p", "_precision"), ("r", "_recall")):
                found[f"{name}{suffix}"] = fmean([row[name][letter] for row in scores])  # type: ignore[index]
        else:
            found[name] = fmean([value_of(row[name]) for row in scores])
    return found
