"""Rows that hold a conversation: messages, ShareGPT's form, prompt and completion, Alpaca's form.

Which form a file has is named in the config, and never guessed from a row.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from bakeoff.config.data import CONVERSATIONS, DataConfig
from bakeoff.config.sandbox import TemplateError
from bakeoff.data.columns import Columns, RowError, checked, label_of, plain_value, text_of, texts_of, value_of
from bakeoff.data.examples import ASSISTANT, SYSTEM, TOOL, USER, Example, Turn
from bakeoff.data.lines import Row
from bakeoff.errors import did_you_mean, kind_of, listed

ROLES = {role: role for role in (SYSTEM, USER, ASSISTANT, TOOL)} | {"developer": SYSTEM}
FROM = {"system": SYSTEM, "human": USER, "user": USER, "gpt": ASSISTANT, "chatgpt": ASSISTANT, "assistant": ASSISTANT}
CALLS = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking", "images")
SHOWN = "Allowed: a list of turns, the first of which is the user's, after a system text if there is one"


@dataclass(frozen=True)
class Conversations:
    """How a row becomes an example with turns. `form` is one of CONVERSATIONS, `columns` the names of its columns.

    `references` are the columns of other answers that outputs are scored against, if there are any. `check` raises
    TemplateError if the base's chat template refuses a conversation. `kept` are columns that stay with the example.
    """

    form: str
    columns: Mapping[str, str]
    references: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    check: Callable[[Sequence[Turn]], None] | None = None
    kept: tuple[str, ...] = ()
    template: ClassVar[None] = None

    @property
    def names(self) -> frozenset[str]:
        """The columns that are read from a row."""
        own = [*self.columns.values(), *self.references, *self.kept, self.id, self.group]
        return frozenset(name for name in own if name is not None)

    @property
    def document(self) -> str:
        """The column of which a text alone is the user's turn."""
        return self.columns[self.form]

    def example(self, row: Row, beside: Row | None = None) -> Example:
        """Return the example in a row, with references from the row `beside` it; raise RowError if there is none."""
        for part in (row, beside):
            if part is not None and part.fault:
                raise RowError(part.fault[0], f"{part}: {part.fault[1]}")
        *turns, (_, answer) = self.answered(row)
        references = [text for column in self.references for text in texts_of(beside or row, column)]
        return Example(
            id=row.name if self.id is None else label_of(row, self.id),
            document=next(text for role, text in reversed(turns) if role == USER),
            summary=answer,
            group="" if self.group is None else label_of(row, self.group),
            references=tuple(references) if references else (),
            turns=tuple(turns),
            columns={name: plain_value(value_of(row, name)) for name in self.kept} if self.kept else None,
        )

    def answered(self, row: Row) -> list[Turn]:
        """Return the turns of a row, the last of which is an answer; raise RowError if they are in no such order."""
        turns = self.turns(row)
        if self.form == "prompt":
            column = self.columns["completion"]
            answer = self.listed(row, column, ROLES, ASSISTANT)
            if len(answer) != 1 or answer[0][0] != ASSISTANT:
                roles = listed([role for role, _ in answer])
                fault = f"{row}: column '{column}' contains turns of {roles}. Allowed: a text, or one assistant's turn"
                raise RowError("completion", fault)
            turns += answer
        elif self.form == "instruction":
            turns.append((ASSISTANT, text_of(row, self.columns["output"], "data.output")))
        where = f"{row}: column '{self.document}'"
        check_order(turns, where)
        if turns[-1][0] != ASSISTANT:
            role = turns[-1][0]
            fault = (
                f"{where}: the conversation ends with a turn of '{role}', so it has no answer to train. Remove the turn"
            )
            raise RowError("no answer", fault)
        if self.check is not None:
            try:
                self.check(turns)
            except TemplateError as error:
                raise RowError("chat template", f"{where}: the base's chat template {error}") from None
        return turns

    def asked(self, row: Row) -> list[Turn]:
        """Return the turns of a row to which an answer is to be written; raise RowError if they end with an answer."""
        turns = self.turns(row)
        check_order(turns, str(row))
        if turns[-1][0] == ASSISTANT:
            fault = f"{row}: the conversation ends with an answer. Allowed: turns that end with the user's"
            raise RowError("answered", fault)
        return turns

    def turns(self, row: Row) -> list[Turn]:
        """Return the turns in a row's column, without a completion."""
        if self.form == "instruction":
            text = text_of(row, self.columns["instruction"], "data.instruction")
            more = row.values.get(self.columns.get("input", ""))
            return [(USER, f"{text}\n\n{checked(more, str(row))}" if more and str(more).strip() else text)]
        roles = FROM if self.form == "conversations" else ROLES
        return self.listed(row, self.columns[self.form], roles, USER if self.form == "prompt" else None)

    def listed(self, row: Row, column: str, roles: Mapping[str, str], alone: str | None) -> list[Turn]:
        """Return the turns in a column; a text is a turn of the role `alone`, where that is given."""
        where = f"{row}: column '{column}'"
        if column not in row.values:
            cure = f"Set data.{next(key for key, name in self.columns.items() if name == column)}"
            raise RowError(f"no column '{column}'", f"{where}: is missing. {cure}{did_you_mean(column, row.values)}")
        value = parsed(row.values[column])
        if isinstance(value, str) and alone is not None:
            return [(alone, checked(value, where))]
        if not isinstance(value, list):
            raise RowError("no conversation", f"{where} contains {kind_of(value)}, expected a list of turns")
        if not value:
            raise RowError("empty", f"{where} contains an empty list. Remove the row, or fill it")
        keys = ("from", "value") if roles is FROM else ("role", "content")
        return [turn_of(item, keys, roles, f"{where}, turn {number}") for number, item in enumerate(value, 1)]


def parsed(value: Any) -> Any:
    """Return the list in a table's cell that contains JSON; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ ", "[\n"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def turn_of(item: Any, keys: tuple[str, str], roles: Mapping[str, str], where: str) -> Turn:
    """Return one turn of a list; raise RowError if it is not a turn."""
    of_role, of_text = keys
    if not isinstance(item, Mapping):
        raise RowError("no turn", f"{where} is {kind_of(item)}, expected {of_role} and {of_text}")
    calls = [key for key in CALLS if item.get(key)]
    if calls:
        raise RowError(calls[0], f"{where} has '{calls[0]}', which is not supported. Allowed: {of_role} and {of_text}")
    for key in keys:
        if key not in item:
            raise RowError(f"no {key}", f"{where}: '{key}' is missing. It has {listed(sorted(map(str, item)))}")
    role = item[of_role]
    if not isinstance(role, str) or role not in roles:
        shown = f"'{role:.40}'" if isinstance(role, str) else kind_of(role)
        raise RowError("role", f"{where}: unknown {of_role} {shown}.{did_you_mean(str(role), roles)}")
    return roles[role], checked(joined(item[of_text], where), where)


def joined(content: Any, where: str) -> Any:
    """Return the text of a content that is a list of parts; raise RowError if a part is not text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind != "text" or not isinstance(text, str):
            raise RowError("no text", f"{where} has a part of type '{kind!s:.40}'. Allowed: parts of text")
        texts.append(text)
    return "".join(texts)


def check_order(turns: list[Turn], where: str) -> None:
    """Raise RowError if turns are in an order that no chat has."""
    roles = [role for role, _ in turns]
    own = roles[1:] if roles[0] == SYSTEM else roles
    if not own or own[0] != USER:
        first = f"begins with a turn of '{own[0]}'" if own else "has a system text only"
        raise RowError("order", f"{where}: the conversation {first}. {SHOWN}")
    if SYSTEM in own:
        number = roles.index(SYSTEM, 1) + 1
        raise RowError("order", f"{where}: turn {number} is a system text. Allowed: only as the first turn")
    for number, (one, other) in enumerate(pairwise(roles), 2):
        if one == other == ASSISTANT:
            fault = f"{where}: turns {number - 1} and {number} are both the assistant's. Join them, or remove one"
            raise RowError("order", fault)


AnyColumns = Columns | Conversations


def conversations_of(
    config: DataConfig, references: bool, check: Callable[[Sequence[Turn]], None] | None = None
) -> Conversations:
    """Return the meaning of the columns of `data.conversation`.

    `references`: whether columns of other answers are read, as in the test split.
    """
    form = config.conversation
    assert form is not None
    columns = {key: name for key in (form, *CONVERSATIONS[form]) if (name := getattr(config, key)) is not None}
    others = config.references if references else None
    named = (others,) if isinstance(others, str) else tuple(others or ())
    kept = tuple(config.metric_columns) if references else ()
    return Conversations(form, columns, named, config.id, config.group, check, kept)
