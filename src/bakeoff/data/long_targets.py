"""Targets that leave no room for a document: how many there are, and what `data.long_targets` does with them."""

from collections.abc import Mapping, Sequence

import numpy

from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm
from bakeoff.data.overlap import of
from bakeoff.data.sources import Splits
from bakeoff.data.splitting import take
from bakeoff.data.token_file import StoredTokens
from bakeoff.data.tokenizer_checks import whole_lengths
from bakeoff.data.tokens import excess
from bakeoff.errors import DataError
from bakeoff.store.run_folder import SPLITS

TOLD = 0.02  # a share of the test targets that is longer than outputs; by default one of 100 is
ROOM = "Raise protocol.max_tokens as far as the model's context allows"


def settled(splits: Splits, form: AnyForm, max_tokens: int, policy: str) -> tuple[Splits, list[str]]:
    """Return the splits without the examples that the policy drops, and findings.

    Raises DataError if the policy is to stop and there is such a target, or if nothing is left of a split.
    """
    kept, findings = dict(splits), []
    for split in SPLITS if policy != "cut" else ():
        beyond = excess(splits[split], form, max_tokens)
        long = beyond > 0
        if not long.any():
            continue
        what = f"data.{split}: {of(int(long.sum()), len(long))}"
        first = splits[split][int(long.argmax())].id
        why = f"leave no room for a document in {max_tokens} tokens"
        if policy == "stop":
            raise DataError(
                f"{what} targets {why} (the first is of example '{first:.60}', by {beyond[long][0]} tokens). "
                f"Set data.long_targets: cut or drop. {ROOM}"
            )
        if long.all():
            raise DataError(f"{what} targets {why}, and were dropped. Set data.long_targets: cut. {ROOM}")
        kept[split] = take(splits[split], (~long).nonzero()[0])
        findings.append(f"{what} examples dropped, because their targets {why} (data.long_targets: drop)")
    return kept, findings


def beyond_outputs(
    splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, StoredTokens], form: AnyForm, output_tokens: int,
    asked: int | None,
) -> list[str]:  # fmt: skip
    """Return a finding if more test targets than usual are longer than an output can be."""
    lengths = whole_lengths(tokens["test"], splits["test"], form)
    longer = int(numpy.count_nonzero(lengths > output_tokens))
    if longer <= TOLD * len(lengths):
        return []
    cure = "Raise generation.max_new_tokens" if asked else f"{ROOM}, or set generation.max_new_tokens"
    return [
        f"data.test: {of(longer, len(lengths))} targets are longer than {output_tokens} tokens, the longest output, so "
        f"outputs are shorter than these targets. {cure}"
    ]
