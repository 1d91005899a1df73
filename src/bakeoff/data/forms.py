"""Which form a bakeoff's examples have: plain text, or conversations in the base's chat template."""

from typing import Any

from bakeoff.config.chat import ChatConfig
from bakeoff.config.config import Config
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.prompt_format import Form, make_form
from bakeoff.errors import ConfigError
from bakeoff.store.plan_document import ChatFacts, PlanDocument

AnyForm = Form | ChatForm


def uses_chat(config: Config, tokenizer: Any, encoder_decoder: bool) -> bool:
    """Return whether examples become conversations; raise ConfigError if they should and cannot."""
    talks, asked = config.data.conversation, isinstance(config.chat, ChatConfig)
    if config.chat == "off" or config.template is not None:
        return False
    reason = "is an encoder-decoder, which has no turns" if encoder_decoder else "has no chat template"
    if not encoder_decoder and tokenizer.chat_template:
        return True
    if talks:
        raise ConfigError(f"data.{talks}: {config.model} {reason}, which conversations need. Try: an instruct base")
    if asked:
        raise ConfigError(f"chat: {config.model} {reason}. Try: chat: off, or a base that was trained on conversations")
    return False


def chat_of(config: Config) -> ChatConfig:
    """Return how a config uses a chat template; by default if it does not say."""
    return config.chat if isinstance(config.chat, ChatConfig) else ChatConfig()


def form_of(config: Config, tokenizer: Any, chat: bool, encoder_decoder: bool) -> AnyForm:
    """Return the form of a bakeoff's examples; `chat` is what `uses_chat` returns, or what a plan says."""
    if chat:
        return ChatForm(tokenizer, chat_of(config))
    return make_form(tokenizer, config.template, encoder_decoder)


def as_tested(form: AnyForm) -> AnyForm:
    """Return the form of the test split."""
    return form.tested() if isinstance(form, ChatForm) else form


def chat_facts(form: AnyForm | None, stops: list[int]) -> ChatFacts | None:
    """Return what a plan holds of a chat template; `stops` are the ids that the model's files end outputs with."""
    if not isinstance(form, ChatForm):
        return None
    ends = sorted({form.end_id, form.tokenizer.eos_token_id, *stops})
    return ChatFacts(rendered=form.rendered, ends=ends)


def stops_of(plan: PlanDocument) -> frozenset[int]:
    """Return the ids that end an output by a plan, besides the tokenizer's end of text."""
    return frozenset(plan.chat.ends if plan.chat else ())


def chat_findings(form: AnyForm | None, facts: ChatFacts | None) -> list[str]:
    """Return what is to be said of the chat template that a base has."""
    if not isinstance(form, ChatForm) or facts is None:
        return []
    shown = form.tokenizer.convert_ids_to_tokens(facts.ends)
    lines = [
        f"chat: the base's own chat template is used (chat: off for plain text). A prompt ends with "
        f"{form.renderer.layout(('user',), True)[-1]!r:.100}, an output at any of {', '.join(shown)}"
    ]
    if form.lead.strip():
        lines.append(f"chat: the template writes {form.lead!r:.80} before each answer, as a part of every target")
    if not form.ending:
        lines.append(
            f"chat: the template ends an answer without a token, so bakeoff puts {form.tokenizer.eos_token} after each "
            "target"
        )
    if form.renderer.template.asks_date:
        lines.append(
            f"chat: the template writes today's date. Here it is always {form.chat.date} (chat.date); prompts of "
            "other programs have another date"
        )
    return lines
