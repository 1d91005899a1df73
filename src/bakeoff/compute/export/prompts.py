"""The process that says what an instruct base is asked for each test example: turns, and the text that they become.

`python -m bakeoff.compute.export.prompts` reads a request from standard input, as JSON: "folder" and "run" of a
bakeoff, and "limit", how many test examples. It prints what it found, or {"error": line}. It loads no model.
"""

from dataclasses import asdict
from typing import Any

from bakeoff.compute.export.answer import answer
from bakeoff.compute.export.source import Source
from bakeoff.compute.model.loading import load_tokenizer
from bakeoff.config.templates import prompt_template
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.chat_pieces import added_first, around, pieces_of
from bakeoff.data.examples import Example, shortened
from bakeoff.data.forms import as_tested, form_of
from bakeoff.data.token_file import tested
from bakeoff.data.tokens import Tokens
from bakeoff.store.run_folder import Folder


def prompts(folder: str, run: str, limit: int | None) -> dict[str, Any]:
    """Return what is asked for the first `limit` test examples: "asked", its "messages" and their "text" each.

    "around" are the texts before and after a document, None where they differ or the examples are conversations.
    "pieces" are those of the template, None where it writes others for these conversations. Both are without the
    token that the tokenizer puts before every text.
    """
    source = Source(Folder(folder), run)
    tokenizer = load_tokenizer(source.config.model, source.config.pin)
    written, first = as_tested(form_of(source.config, tokenizer, True, False)), added_first(tokenizer)
    assert isinstance(written, ChatForm)
    asked = [asked_for(written, *both) for both in zip(*tested(source.folder, limit), strict=True)]
    found: dict[str, Any] = {"asked": asked, "around": None, "pieces": None}
    if source.config.data.conversation:
        orders = {tuple(turn["role"] for turn in one["messages"]) for one in asked}
        if pieces := pieces_of(written.renderer, orders):
            found["pieces"] = asdict(pieces) | {"begin": pieces.begin.removeprefix(first)}
    elif prompt_template(written.template).constant:
        before, after = around(written)
        found["around"] = before.removeprefix(first), after
    return found


def asked_for(form: ChatForm, example: Example, row: Tokens) -> dict[str, Any]:
    """Return the turns that a row asks with, and their text; of a document that was cut, all is in them."""
    if example.turns and row.cut:
        example = next(one for one in shortened(example) if form.prompt(one) == row.prompt)
    turns = form.conversation(example).messages[:-1]
    return {
        "messages": [{"role": role, "content": content} for role, content in turns],
        "text": form.renderer.text(turns, True),
    }


if __name__ == "__main__":
    answer(prompts)
