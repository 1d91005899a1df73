"""What of a conversation goes into a base's context: its newest turns, and always its system text and last question."""

from collections.abc import Iterable
from dataclasses import replace

from bakeoff.config.sandbox import TemplateError
from bakeoff.data.examples import Example, shortened
from bakeoff.data.forms import AnyForm
from bakeoff.data.prompt_format import Parts
from bakeoff.data.stored import place_of
from bakeoff.errors import DataError


def parts_of(chunk: list[Example], form: AnyForm, examples: Iterable[Example], where: str) -> list[Parts]:
    """Return the parts of some of the examples; raise DataError, which names the row, if a chat template refuses it."""
    try:
        return form.parts(chunk)
    except TemplateError:
        for example in chunk:
            try:
                form.parts([example])
            except TemplateError as error:
                raise DataError(
                    f"{where}: {place_of(example, examples)}: chat: the base's chat template {error}. Or leave "
                    "out this row"
                ) from None
        raise


def fitted(
    example: Example, parts: Parts, form: AnyForm, max_tokens: int, output_tokens: int, where: str
) -> tuple[Parts, int]:
    """Return a conversation's ids without as many of its oldest turns as `max_tokens` do not allow, and how many ids.

    The system text and the last question stay. Raises DataError if these leave no room for an output.
    """
    if needed(parts, output_tokens) <= max_tokens:
        return parts, 0
    shorter = shortened(example)
    fewest, most = 0, len(shorter) - 1
    found = {0: parts}
    while fewest < most:  # a conversation with fewer turns is shorter
        middle = (fewest + most) // 2
        if middle not in found:
            (found[middle],) = form.parts([shorter[middle]])
        if needed(found[middle], output_tokens) <= max_tokens:
            most = middle
        else:
            fewest = middle + 1
    if fewest not in found:
        (found[fewest],) = form.parts([shorter[fewest]])
    kept = found[fewest]
    prompt = len(kept.head) + len(kept.document) + len(kept.tail)
    if prompt + output_tokens > max_tokens:
        raise DataError(
            f"{where}: example '{example.id}': its last question, with the system text, has {prompt} tokens, which "
            f"leaves no room for outputs of {output_tokens} in {max_tokens}. Remove it, or raise protocol.max_tokens "
            "as far as the model's context allows"
        )
    cut = whole_length(parts) - whole_length(kept)
    target = kept.target if needed(kept, output_tokens) <= max_tokens else kept.target[:output_tokens]
    return replace(kept, target=target), cut


def whole_length(parts: Parts) -> int:
    """Return how many ids an example has."""
    return len(parts.head) + len(parts.document) + len(parts.tail) + len(parts.target)


def needed(parts: Parts, output_tokens: int) -> int:
    """Return how many tokens a conversation needs, and an output in place of its last answer."""
    last = parts.gaps[-1][1] if parts.gaps else 0
    return whole_length(parts) + max(0, output_tokens - (len(parts.target) - last))
