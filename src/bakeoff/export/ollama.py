"""The Modelfile of an export for Ollama: the template of training around the prompt, and greedy decoding."""

import json
from collections.abc import Sequence

from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.data.chat_pieces import Pieces
from bakeoff.errors import SetupError
from bakeoff.export.prompts import Prompts


def check_template(template: str) -> None:
    """Raise SetupError if the texts around the document differ between rows: Ollama has one template."""
    if not prompt_template(template).constant:
        raise SetupError(
            "--to ollama: the template uses other columns than the document, but a Modelfile has a place for one text "
            "only. Try: --to gguf, and write the whole prompt yourself"
        )


def go_template(template: str, prompts: Prompts | None) -> str:
    """Return the template of training as Ollama has it; raise SetupError if it cannot be written so."""
    if prompts is None:
        text = of_text(*prompt_template(template).around({DOCUMENT: ""}))
    elif prompts.around:
        text = of_text(*prompts.around)
    elif prompts.pieces:
        text = of_turns(prompts.pieces)
    else:
        raise SetupError(
            "--to ollama: the chat template does not write the same texts around all turns of a role, which Ollama's "
            "templates need. Try: --to gguf, which includes the chat template itself"
        )
    check_quotes(text)
    return text


def check_quotes(text: str) -> None:
    """Raise SetupError if a text would end what encloses it in a Modelfile."""
    if '"""' in text:
        raise SetupError('--to ollama: a Modelfile cannot have three quotes (""") in a text. Try: --to gguf')


def of_text(before: str, after: str) -> str:
    """Return a template of one text around the prompt."""
    return f"{escaped(before)}{{{{ .Prompt }}}}{escaped(after)}"


def of_turns(pieces: Pieces) -> str:
    """Return a template of turns, with texts around those of each role."""
    cases = []
    for role, texts in pieces.roles.items():
        content = "{{ .Content }}".join(map(escaped, texts))
        cases.append(f'{{{{ if eq .Role "{role}" }}}}{content}{{{{ end }}}}')
    return f"{escaped(pieces.begin)}{{{{ range .Messages }}}}{''.join(cases)}{{{{ end }}}}{escaped(pieces.ask)}"


def modelfile(
    file: str, template: str, ends: Sequence[str], output_tokens: int, context: int, system: str | None = None
) -> str:
    """Return a Modelfile: Ollama writes the template's texts, and stops at any of `ends`, as the evaluation did."""
    settings = {"temperature": 0, "repeat_penalty": 1, "num_predict": output_tokens, "num_ctx": context}
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{template}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        *(f"PARAMETER {key} {value}" for key, value in settings.items()),
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text as a Go template has it, where two braces begin an action."""
    return text.replace("{{", '{{ "{{" }}')
