"""Jinja for the chat templates that come with models: what transformers gives them, with every step counted.

A chat template is code from elsewhere. transformers' sandbox keeps it away from Python, but lets it run forever or fill
the memory. Here every value is charged by its size to an account with a limit per conversation, as in `sandbox.py`.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

from bakeoff.config.chat_charges import check_widths, in_short
from bakeoff.config.sandbox import STEPS, TemplateError, TooMuchError, left

MAX_SOURCE = 100_000  # characters of a chat template
MAX_TEXT = 10_000_000  # characters of a rendered conversation
# What a template's own errors, and errors of the operators and functions that it uses, raise.
NO_VALUE = (
    TypeError, ValueError, ArithmeticError, LookupError, AssertionError, AttributeError, NameError, RecursionError,
)  # fmt: skip
NO_TEMPLATE = (*NO_VALUE, SyntaxError, MemoryError)


class ChatTemplate:
    """A chat template that is rendered with limited steps. `asks_date` says whether it has asked for today's date."""

    def __init__(self, source: str, day: str):
        from jinja2 import TemplateError as JinjaError

        from bakeoff.config.chat_jinja import all_charged, environment

        if len(source) > MAX_SOURCE:
            raise TemplateError(f"has {len(source):,} characters. Allowed: {MAX_SOURCE:,}")
        self.asks_date = False

        def strftime_now(form: str) -> str:
            self.asks_date = True
            check_widths(form)
            return date.fromisoformat(day).strftime(form)

        made = environment()
        try:
            self._template = made.from_string(all_charged(made.parse(source)))
        except (JinjaError, *NO_TEMPLATE) as error:
            raise TemplateError(f"not a template ({in_short(error)})") from None
        self._given = {"strftime_now": strftime_now}

    def render(self, messages: list[dict[str, Any]], values: Mapping[str, Any], generation_prompt: bool) -> str:
        """Return a conversation as text; raise TemplateError if the template refuses it or takes too many steps.

        `values` are special tokens and the config's `kwargs`.
        """
        from jinja2 import TemplateError as JinjaError

        given = {**self._given, **values, "messages": messages, "tools": None, "documents": None}
        parts, length = [], 0
        left.set([STEPS])
        try:
            for part in self._template.generate({**given, "add_generation_prompt": generation_prompt}):
                parts.append(part)
                length += len(part)
                if length > MAX_TEXT:
                    raise TooMuchError(f"makes a text of more than {MAX_TEXT:,} characters")
        except TooMuchError as error:
            raise TemplateError(str(error).partition(". Try: ")[0]) from None
        except (JinjaError, *NO_VALUE, MemoryError) as error:
            raise TemplateError(f"fails ({in_short(error)})") from None
        return "".join(parts)
