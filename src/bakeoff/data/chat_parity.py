"""Whether stored ids are those that a user gets from the base's own apply_chat_template."""

from collections.abc import Iterator, Sequence
from typing import Any

from bakeoff.data.chat_form import OFF, ChatForm, Conversation
from bakeoff.data.examples import Example
from bakeoff.data.overlap import of
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError

TRIED = 200  # rows of a split, evenly spaced


def parity(where: str, examples: Sequence[Example], rows: Sequence[Tokens], form: ChatForm) -> list[str]:
    """Return a finding about rows whose ids differ from those of the whole conversation.

    Raises SetupError if transformers gives a row another prompt: the trained prompt would never be used.
    """
    every = max(1, len(rows) // TRIED)
    tried, other = 0, []
    for i in range(0, min(len(rows), TRIED * every), every):
        example, row = examples[i], rows[i]
        given = form.conversation(example)
        if row.cut or row.target[-1] != form.end_id or not plain_texts(form, given):
            continue
        tried += 1
        prompt, whole = own_ids(form, given)
        if prompt != row.prompt:
            raise SetupError(
                f"{where}: example '{example.id}': chat: transformers' apply_chat_template gives other ids for the "
                f"prompt than those that are trained. {OFF}"
            )
        if whole[: len(row)] != [*row.prompt, *row.target]:
            other.append(example.id)
    if not other:
        return []
    return [
        f"{where}: {of(len(other), tried)} answers (of those tried) have other ids if they are tokenized together with "
        f"their prompt, first that of example '{other[0]}'. They are trained as they are generated: after the prompt"
    ]


def plain_texts(form: ChatForm, given: Conversation) -> bool:
    """Return whether no text holds a token of the template, which apply_chat_template would read as such."""
    return not any(form.renderer.controls_in(text) for _, text in given.messages)


def own_ids(form: ChatForm, given: Conversation) -> Iterator[list[int]]:
    """Yield the ids of the prompt and of the whole conversation by the tokenizer's own apply_chat_template."""
    tokenizer: Any = form.tokenizer
    messages = [{"role": role, "content": content} for role, content in given.messages]
    for turns, asked in ((messages[: given.trained[0]], True), (messages, False)):
        if form.renderer.template.asks_date:  # which is today there
            text = form.renderer.text([(turn["role"], turn["content"]) for turn in turns], asked)
            yield tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            out = tokenizer.apply_chat_template(turns, add_generation_prompt=asked, **form.chat.kwargs)
            yield out["input_ids"]
