"""The search for an instruction: a text before the prompt with which the untouched base has the lowest validation loss.

Like GrIPS (Prasad et al. 2023, arXiv:2203.07281) without a model that paraphrases: the best text so far is edited, and
an edit stays if the loss falls. This module does not know models.
"""

from collections.abc import Callable, Sequence
from random import Random

# For any task from text to text; a config may have its own.
STARTS = (
    "Summarize the text.",
    "Write a summary of the following text in one sentence.",
    "Read the text and write what it is about.",
    "Here is a text, and then its short description.",
    "In one line, say what this does.",
    "Give the main point, in the words of the text.",
    "Answer as in the examples that you have seen.",
    "Text and answer:",
)
MOST_WORDS = 60  # of an instruction
SPAN = 3  # words that an edit moves, removes or takes, at most
MISSES = 100  # edits in a row that were tried before, then there are no new ones nearby


def search(loss_of: Callable[[str], float], starts: Sequence[str], tried: int, seed: int) -> dict[str, float]:
    """Return the loss of every text that was tried, at most `tried`, in their order; the first is no instruction.

    The same arguments give the same texts.
    """
    draw, losses, misses = Random(seed), {}, 0
    for text in ["", *starts][:tried]:
        losses[text] = loss_of(text)
    while len(losses) < tried and misses < MISSES:
        text = edited(best(losses), starts, draw)
        if text in losses or len(text.split()) > MOST_WORDS:
            misses += 1
            continue
        losses[text], misses = loss_of(text), 0
    return losses


def best(losses: dict[str, float]) -> str:
    """Return the text with the lowest loss, the first of equals."""
    return min(losses, key=lambda text: losses[text])


def edited(text: str, starts: Sequence[str], draw: Random) -> str:
    """Return a text after one edit: a phrase is removed, moved, or added or replaced from one of the starts."""
    words, edit = text.split(), draw.choice(("remove", "move", "add", "replace"))
    taken = phrase(draw.choice(starts).split(), draw)
    if edit == "add" or not words:
        place = draw.randint(0, len(words))
        return " ".join([*words[:place], *taken, *words[place:]])
    start = draw.randrange(len(words))
    end = min(len(words), start + draw.randint(1, SPAN))
    rest, own = [*words[:start], *words[end:]], words[start:end]
    if edit == "remove":
        return " ".join(rest)
    place = draw.randint(0, len(rest)) if edit == "move" else start
    return " ".join([*rest[:place], *(own if edit == "move" else taken), *rest[place:]])


def phrase(words: Sequence[str], draw: Random) -> Sequence[str]:
    """Return a few words in a row."""
    start = draw.randrange(len(words))
    return words[start : start + draw.randint(1, SPAN)]
