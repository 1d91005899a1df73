"""The `chat` section of the YAML: how a base's own chat template is used."""

from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator

from bakeoff.config.sections import Section
from bakeoff.config.templates import TemplateError, prompt_template

USER = "Summarize:\n{{ document }}"
# What apply_chat_template sets itself, and what the other keys of this section set.
OWN_NAMES = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template",
             "tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length"}  # fmt: skip


class ChatConfig(Section):
    """How examples become conversations, and how the base's chat template writes them."""

    system: str | None = Field(
        None, min_length=1, description="text of the system turn, which comes first; null: no system turn"
    )
    user: str = Field(
        USER,
        description="text of the user's turn: a Jinja template over the columns of a row; it must contain "
        "{{ document }} exactly once; if a prompt is too long, only the document is cut",
    )
    train_on: Literal["all", "last"] = Field(
        "all",
        description="which answers of a conversation are trained: all of them, or only the last; the test always asks "
        "for the last",
    )
    kwargs: dict[str, Any] = Field(
        {}, description="further variables of the chat template, for example {enable_thinking: false}"
    )
    date: str = Field(
        "2026-01-01",
        description="day that a chat template gets as today's date, so that prompts are the same on every day",
    )

    @field_validator("user")
    @classmethod
    def _renders(cls, value: str) -> str:
        try:
            prompt_template(value)
        except TemplateError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("kwargs")
    @classmethod
    def _free_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_NAMES & value.keys())
        if taken:
            raise ValueError(f"'{taken[0]}' is set by bakeoff itself. Allowed: names that the template itself reads")
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _a_day(cls, value: Any) -> Any:
        text = str(value)  # YAML reads a bare day as one
        try:
            date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"expected a day as year-month-day, got {text!r:.40}. For example 2026-01-01") from None
        return text


Chat = ChatConfig | Literal["off"] | None
