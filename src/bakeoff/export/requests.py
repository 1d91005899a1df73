"""Requests to a server with OpenAI's API that ask for an output as the evaluation did: greedy, and as long."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.data.examples import SYSTEM, USER, Turn
from bakeoff.store.results_document import ResultsDocument


def chat_request(document: ResultsDocument, turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the part of a request that says which prompt: turns, and the variables of the chat template."""
    assert document.chat is not None
    kwargs = document.chat["kwargs"]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages} | ({"chat_template_kwargs": kwargs} if kwargs else {})


def example_turns(document: ResultsDocument) -> list[Turn]:
    """Return turns that a card shows: the system text, and the user's text around a document, or a question."""
    assert document.chat is not None
    system = document.chat["system"]
    question = "A question" if document.chat["turns"] else with_document(document.template)
    return [*([(SYSTEM, system)] if system else []), (USER, question)]


def with_document(template: str) -> str:
    """Return a prompt around the beginning of a document; where its texts differ from row to row, words for them."""
    rows = prompt_template(template)
    before, after = rows.around({DOCUMENT: ""}) if rows.constant else ("the text before ", " the text after")
    return f"{before}A long document ...{after}"


def curl(document: ResultsDocument, address: str, **more: Any) -> str:
    """Return a command that sends a request."""
    if document.chat is None:
        path, asked = "completions", {"prompt": with_document(document.template)}
    else:
        path, asked = "chat/completions", chat_request(document, example_turns(document))
    body = json.dumps({**asked, "temperature": 0, "max_tokens": document.output_tokens, **more}, ensure_ascii=False)
    words = ["curl", f"{address}/v1/{path}", "-H", "Content-Type: application/json", "-d"]
    return f"{shlex.join(words)} {shlex.quote(body)}"
