"""From a request to the ids that the engine reads: as in the evaluation of its bakeoff, or as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.config.sandbox import TemplateError
from bakeoff.data.chat_form import ChatForm, Conversation
from bakeoff.data.conversations import ROLES, check_order, turn_of
from bakeoff.data.examples import ASSISTANT, USER, Turn
from bakeoff.data.prompt_format import plain_ids
from bakeoff.errors import BakeoffError, DataError
from bakeoff.serving.errors import ApiError
from bakeoff.serving.models import Model
from bakeoff.serving.requests import Chat, Completion

ONE = "this bakeoff was not made on conversations: expected one message, of the user, which is the document"


@dataclass(frozen=True)
class Prompt:
    """The ids of a prompt, and how many tokens of its document, or of its oldest turns, were left out."""

    ids: list[int]
    cut: int
    most: int  # tokens of the output


def prompt_of(model: Model, asked: Completion | Chat, limit: int) -> Prompt:
    """Return what a request asks of a model; raise ApiError if it cannot be read, or leaves no room in the context.

    `limit` is the most tokens that the server lets an output have.
    """
    field = "prompt" if isinstance(asked, Completion) else "messages"
    try:
        ids, cut = raw_ids(model, asked) if asked.raw else evaluated_ids(model, asked)
    except TemplateError as error:
        raise ApiError(400, f"{field}: the base's chat template {error}", field) from None
    except BakeoffError as error:
        raise ApiError(400, str(error).replace("document 1", field, 1), field) from None
    if not ids:
        raise ApiError(400, f"{field}: has no tokens", field)
    return Prompt(ids, cut, room(model, len(ids), asked.most, limit, field))


def room(model: Model, tokens: int, asked: int | None, limit: int, field: str) -> int:
    """Return how many tokens an output may have after a prompt; by default, as many as in the evaluation."""
    usual, bakeoff = model.prompts.output_tokens, model.bakeoff
    if asked is not None and asked > limit:
        raise ApiError(400, f"max_tokens: at most {limit} on this server, got {asked}", "max_tokens")
    if bakeoff.context is None:
        return asked or min(usual, limit)
    own = tokens + model.virtual
    left = bakeoff.context if model.prompts.form.encoder_decoder else bakeoff.context - own
    if own > bakeoff.context or left < 1:
        raise ApiError(
            400, f"{field}: has {own} tokens, and the model reads {bakeoff.context}, with its output", field,
            "context_length_exceeded",
        )  # fmt: skip
    if asked is not None and asked > left:
        raise ApiError(
            400, f"max_tokens: {asked} do not fit after a prompt of {own} tokens in the model's {bakeoff.context}. "
            f"Allowed: up to {left}", "max_tokens", "context_length_exceeded",
        )  # fmt: skip
    return asked or min(usual, left, limit)


def evaluated_ids(model: Model, asked: Completion | Chat) -> tuple[list[int], int]:
    """Return the ids of a document, or of turns, as in the evaluation, and how many were cut."""
    prompts = model.prompts
    turns = turns_of(asked.messages) if isinstance(asked, Chat) else []
    if turns and prompts.turns:
        row = prompts.after(turns)
        return row.prompt, row.cut
    if turns and [role for role, _ in turns] != [USER]:
        raise ApiError(400, f"messages: {ONE}. Or set raw, on a base with a chat template", "messages")
    rows = prompts.rows([document_of(model, asked) if isinstance(asked, Completion) else turns[0][1]])
    if not rows:
        raise DataError("document 1: is blank. Expected a text")
    return rows[0].prompt, rows[0].cut


def document_of(model: Model, asked: Completion) -> str | dict[str, Any]:
    """Return the document of a request, with its other columns if it has any."""
    prompts = model.prompts
    if not asked.columns:
        return asked.text
    if prompts.turns or prompts.columns.document in asked.columns:
        raise ApiError(400, f"columns: {wrong_columns(model)}", "columns")
    return {prompts.columns.document: asked.text, **asked.columns}


def wrong_columns(model: Model) -> str:
    """Return why a request's other columns cannot be."""
    prompts = model.prompts
    if prompts.turns:
        return "this bakeoff was made on conversations, which have none. Leave it out"
    return f"'{prompts.columns.document}' is the document, which is the prompt. Leave it out"


def turns_of(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return messages as turns; raise DataError if one is not a turn, or they do not end with the user's."""
    for number, message in enumerate(messages, 1):
        others = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
        if others:
            raise DataError(f"messages: turn {number} has '{others[0]:.80}'. Allowed: role and content")
    turns = [turn_of(item, ("role", "content"), ROLES, f"messages: turn {n}") for n, item in enumerate(messages, 1)]
    check_order(turns, "messages")
    if turns[-1][0] == ASSISTANT:
        raise DataError("messages: end with an answer. Expected turns that end with the user's")
    return turns


def raw_ids(model: Model, asked: Completion | Chat) -> tuple[list[int], int]:
    """Return the ids of a prompt as it is written, where special tokens are tokens; or of turns without the form."""
    form = model.prompts.form
    if isinstance(asked, Completion):
        if asked.columns:
            raise ApiError(400, "columns: a raw prompt has none. Leave out one of them", "columns")
        begin, end = ([], []) if isinstance(form, ChatForm) else (form.begin, form.end)
        (ids,) = plain_ids(form.tokenizer, [asked.text], parsed=True)
        return [*begin, *ids, *end], 0
    if not isinstance(form, ChatForm):
        raise ApiError(
            400, "raw: the base of this bakeoff is used without a chat template. Try: /v1/completions", "raw"
        )
    (ids, _) = form.prompts([Conversation(tuple(turns_of(asked.messages)), ())])[0]
    return ids, 0
