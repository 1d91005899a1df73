"""What an instruct base is asked for each test example, for programs that do not run a tokenizer of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass

from bakeoff.data.chat_pieces import Pieces
from bakeoff.data.examples import Turn
from bakeoff.export.job import PROMPTS, Job


@dataclass(frozen=True)
class Prompts:
    """Each test example's turns, and the text that the base's chat template makes of them.

    `around` are the texts before and after every document; None where they differ, or examples are conversations.
    `pieces` are the template's texts around the turns of conversations, None where they are not always the same.
    `around` and `pieces` do not have the token that the tokenizer puts before every text.
    """

    turns: list[list[Turn]]
    texts: list[str]
    around: tuple[str, str] | None
    pieces: Pieces | None

    def written(self, turns: Sequence[Turn], document: str) -> str | None:
        """Return the prompt from the fixed texts: of a document, or of turns; None where there are none."""
        if self.around:
            return document.join(self.around)
        return self.pieces.text(turns) if self.pieces else None


def prompts_of(job: Job) -> Prompts | None:
    """Return what is asked for the test examples that an export is checked with; None where prompts are plain texts."""
    if job.document.chat is None:
        return None
    found = job.ask(PROMPTS, limit=job.options.limit)
    return Prompts(
        [[(turn["role"], turn["content"]) for turn in one["messages"]] for one in found["asked"]],
        [one["text"] for one in found["asked"]],
        found["around"] and tuple(found["around"]),
        Pieces(**found["pieces"]) if found["pieces"] else None,
    )
