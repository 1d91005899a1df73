"""What `bakeoff init` proposes for targets that are no prose in Latin letters: labels, JSON, other scripts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from bakeoff.config.names import MAJORITY
from bakeoff.data.examples import Example
from bakeoff.errors import in_line, listed
from bakeoff.scoring.json_fields import fields_of
from bakeoff.scoring.labels import label
from bakeoff.scoring.words import only_latin
from bakeoff.store.run_folder import SPLITS

LABELS = 50  # at most
LETTERS = 60  # of a label
EACH = 5  # examples per label, on average
LOOKED_AT = 500  # targets for the other two
MOSTLY = 0.5  # of the letters
NO_EXTRACTS = ["base", "few-shot-2"]  # no sentence of a document is a label, or JSON


def task_of(splits: Mapping[str, Sequence[Example]]) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a config that the targets suggest, and the reasons, one line each."""
    labels = few_labels(splits)
    if labels:
        shown = listed([in_line(name) for name in labels], 10)
        return (
            {"metrics": ["accuracy"], "labels": labels, "baselines": [*NO_EXTRACTS, MAJORITY]},
            [f"metrics: accuracy, because the targets are {len(labels)} short texts: {shown}"],
        )
    train = splits["train"]
    targets = [train[i].summary.strip() for i in range(0, len(train), max(1, len(train) // LOOKED_AT))]
    if all(text[:1] in ("{", "[") and fields_of(text) is not None for text in targets):
        return {"metrics": ["json"], "baselines": NO_EXTRACTS}, ["metrics: json, because the targets are JSON"]
    share = mean(only_latin(text) for text in targets)
    if share > MOSTLY:
        why = f"because {share:.0%} of the letters of the targets are no a to z, which is all that rouge sees"
        return {"metrics": ["rouge_unicode"]}, [f"metrics: rouge_unicode, {why}"]
    return {}, []


def few_labels(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Return the different targets, the most frequent first, if they are so few and short that they are labels."""
    written: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for split in SPLITS:
        for example in splits[split]:
            for text in example.references or [example.summary]:
                name = label(text)
                counts[name] += 1
                written.setdefault(name, " ".join(text.split()))
                if len(written) > LABELS or len(text) > LETTERS:
                    return []
    enough = len(written) > 1 and counts.total() >= EACH * len(written)
    return [written[name] for name, _ in counts.most_common()] if enough else []
