"""Classification by text: accuracy, macro F1, and how often each label was written for each other.

A label is a whole output. Case and white space do not count.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from bakeoff.data.examples import Example
from bakeoff.data.overlap import of
from bakeoff.errors import DataError, did_you_mean
from bakeoff.scoring.metric import Measure, Metric, References, Rows
from bakeoff.store.run_folder import SPLITS

OTHER = "(no label)"


def label(text: str) -> str:
    """Return a text as labels are compared."""
    return " ".join(text.split()).casefold()


def pairs(outputs: Sequence[str], references: References) -> list[tuple[str, str]]:
    """Return each output's true label (of several, the one that it is, or the first) and its own."""
    found = []
    for output, texts in zip(outputs, references, strict=True):
        own, true = label(output), [label(text) for text in texts]
        found.append((own if own in true else true[0], own))
    return found


def accuracies(outputs: Sequence[str], references: References) -> Rows:
    """Return 1 for each output that is its true label, else 0."""
    return [{"accuracy": float(true == own)} for true, own in pairs(outputs, references)]


def macro_f1(outputs: Sequence[str], references: References) -> dict[str, float]:
    """Return the mean of the true labels' F measures, 0 to 1: each label counts the same, however rare it is."""
    met = pairs(outputs, references)
    true, own = Counter(true for true, _ in met), Counter(own for _, own in met)
    right = Counter(true for true, own in met if true == own)
    return {"macro_f1": sum(2 * right[name] / (true[name] + own[name]) for name in true) / len(true)}


ACCURACY = Metric(
    (
        Measure("accuracy", "accuracy", "share of outputs that are the label, apart from case and white space"),
        Measure("macro_f1", "macro F1", "mean of the labels' F measures, of all outputs together", corpus=True),
    ),
    "accuracy",
    accuracies,
    macro_f1,
    lambda several: "accuracy: the whole output, apart from case and white space | macro F1: over labels of the test",
)


def confusion(references: References, outputs: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Return how often each label (a row) was answered by each label (a column), (labels, labels + 1).

    The last column counts outputs that are none of the labels. Each reference must be one of them.
    """
    place = {label(name): i for i, name in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for true, own in pairs(outputs, references):
        counts[place[true]][place.get(own, len(labels))] += 1
    return counts


def labels_in(texts: Sequence[str]) -> list[str]:
    """Return the different labels among texts, each as it was first written, the most frequent first."""
    written: dict[str, str] = {}
    for text in texts:
        written.setdefault(label(text), text.strip())
    counts = Counter(label(text) for text in texts)
    return [written[name] for name, _ in counts.most_common()]


def check_labels(labels: Sequence[str] | None, splits: Mapping[str, Sequence[Example]]) -> None:
    """Raise DataError if a target is none of the labels that the config names."""
    if labels is None:
        return
    known = {label(name) for name in labels}
    for split in SPLITS:
        wrong = [e for e in splits[split] if any(label(text) not in known for text in e.references or [e.summary])]
        if wrong:
            raise DataError(
                f"data.{split}: {of(len(wrong), len(splits[split]))} targets are no label (the first is of example "
                f"'{wrong[0].id:.60}': '{wrong[0].summary:.60}').{did_you_mean(wrong[0].summary, labels)} Set labels"
            )
