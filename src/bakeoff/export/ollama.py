"""The Modelfile of an export for Ollama: the template of training around the prompt, and greedy decoding."""

import json

from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.errors import SetupError


def check_template(template: str) -> None:
    """Raise SetupError if the texts around the document differ between rows: Ollama has one template."""
    if not prompt_template(template).constant:
        raise SetupError(
            "--to ollama: the template uses other columns than the document, but a Modelfile has a place for one text "
            "only. Try: --to gguf, and write the whole prompt yourself"
        )
    if '"""' in template:
        raise SetupError('--to ollama: a Modelfile cannot have three quotes (""") in its template. Try: --to gguf')


def modelfile(file: str, template: str, end: str, output_tokens: int, context: int) -> str:
    """Return a Modelfile: Ollama writes the text before and after the prompt, and stops as the evaluation did."""
    before, after = (escaped(text) for text in prompt_template(template).around({DOCUMENT: ""}))
    settings = {
        "temperature": 0, "repeat_penalty": 1, "num_predict": output_tokens, "num_ctx": context,
        "stop": json.dumps(end, ensure_ascii=False),
    }  # fmt: skip
    lines = [f"FROM ./{file}", f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}"""']
    return "\n".join([*lines, *(f"PARAMETER {key} {value}" for key, value in settings.items())]) + "\n"


def escaped(text: str) -> str:
    """Return a text as a Go template has it, where two braces begin an action."""
    return text.replace("{{", '{{ "{{" }}')
