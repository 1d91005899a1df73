"""The examples of a plan: they are read, fitted to the base's context, and written as token ids."""

from dataclasses import dataclass, field
from typing import Any

from bakeoff.config.config import Config
from bakeoff.data.forms import AnyForm, chat_facts, chat_findings, form_of, uses_chat
from bakeoff.data.long_targets import beyond_outputs, settled
from bakeoff.data.prepared import PreparedData
from bakeoff.data.prompt_format import TEMPLATES
from bakeoff.data.shared import SharedData, form_key
from bakeoff.data.sources import Splits
from bakeoff.data.token_file import StoredTokens
from bakeoff.data.tokenizer_checks import Marked, look_at_tokens, marked
from bakeoff.driver.counts import check_ids
from bakeoff.hub import stop_ids
from bakeoff.scoring.labels import check_labels
from bakeoff.store.plan_document import ChatFacts


@dataclass(frozen=True)
class PlannedExamples:
    """The splits, how their examples become ids, and the findings about them.

    `form` is None without the base's tokenizer, and where the splits were only counted (`read` is false). `key` is all
    that their ids depend on.
    """

    splits: Splits
    read: bool
    form: AnyForm | None
    chat: ChatFacts | None
    template: str
    marked: Marked
    findings: list[str]
    key: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class PlannedIds:
    """The ids of each split, the longest output in tokens, and findings about them."""

    tokens: dict[str, StoredTokens]
    output_tokens: int
    findings: list[str]


def read_examples(
    config: Config, tokenizer: Any, encoder_decoder: bool, max_tokens: int, must_read: bool, shared: SharedData
) -> PlannedExamples:
    """Return the config's examples; raise a BakeoffError if they cannot be used."""
    form, chat = planned_form(config, tokenizer, encoder_decoder)
    splits, findings, read = shared.examples(config, must_read, form)
    check_labels(config.labels if read else None, splits)
    template = prompt_text(config, form) or TEMPLATES[encoder_decoder]
    findings = [*findings, *chat_findings(form, chat)]
    if not form or not read:
        return PlannedExamples(splits, read, None, chat, template, Marked(), findings)
    data = [config.data.model_dump(mode="json"), config.prompt, config.target]
    key = [*data, form_key(config, form), max_tokens, config.generation.max_new_tokens]

    def fitted() -> tuple[Splits, list[str], Marked]:
        kept, dropped = settled(splits, form, max_tokens, config.data.long_targets)
        return kept, dropped, marked(kept, form)

    kept, dropped, texts = shared.once(["fitted", *key], fitted)
    return PlannedExamples(kept, read, form, chat, template, texts, [*findings, *dropped], key)


def tokenized(
    config: Config, examples: PlannedExamples, data: PreparedData, tokenizer: Any, max_tokens: int, embedded_ids: int,
    shared: SharedData, carried_out: bool,
) -> tuple[dict[str, StoredTokens], int | None, list[str]]:  # fmt: skip
    """Return the ids of each split, the longest output in tokens, and findings; no ids without a form.

    Those of a plan that is `carried_out` are in its run folder, where others do not look for them.
    """
    if not examples.form:
        unmeasured = (
            f"lengths and cut documents are not measured: the tokenizer of {config.model} is not on this machine"
        )
        return {}, None, [] if tokenizer else [unmeasured]
    form, longest = examples.form, config.generation.max_new_tokens

    def made() -> PlannedIds:
        tokens, output_tokens = data.encode(form, max_tokens, longest)
        findings = look_at_tokens(examples.splits, tokens, form, examples.marked, output_tokens)
        return PlannedIds(
            tokens, output_tokens,
            [*findings, *beyond_outputs(examples.splits, tokens, form, output_tokens, longest)],
        )  # fmt: skip

    ids = shared.once(["ids", *examples.key], made, keep=not carried_out)
    if carried_out:
        data.take(ids.tokens)
    check_ids(config.model, tokenizer, embedded_ids, ids.tokens)
    return ids.tokens, ids.output_tokens, [*ids.findings]


def planned_form(config: Config, tokenizer: Any, encoder_decoder: bool) -> tuple[AnyForm | None, ChatFacts | None]:
    """Return the form of the examples, and what of a chat template is in the plan; without a tokenizer neither."""
    if tokenizer is None:
        return None, None
    form = form_of(config, tokenizer, uses_chat(config, tokenizer, encoder_decoder), encoder_decoder)
    return form, chat_facts(form, stop_ids(config.model, config.pin))


def prompt_text(config: Config, form: AnyForm | None) -> str | None:
    """Return the template of the prompt or of the user's turn; conversations have all their turns in a column."""
    if config.data.conversation:
        return f"{{{{ {getattr(config.data, config.data.conversation)} }}}}"
    return form.template if form else config.prompt
