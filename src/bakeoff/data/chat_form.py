"""The form of an example for a base with a chat template: turns before it, its own turn, and an assistant's answer."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from bakeoff.config.chat import ChatConfig
from bakeoff.config.sandbox import TemplateError
from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.data.chat_ids import Text, text_ids
from bakeoff.data.chat_rows import ChatRow, LaidOut
from bakeoff.data.chat_template import MARK, Rendered, Renderer, Span
from bakeoff.data.examples import ASSISTANT, SYSTEM, TOOL, USER, Example, Turn
from bakeoff.data.prompt_format import Parts, plain
from bakeoff.errors import SetupError
from bakeoff.store.content_hash import hash_of

OFF = "Try: chat: off, which reads and writes plain text"


@dataclass(frozen=True)
class Conversation:
    """The turns of an example, the last of which is the assistant's, and which turns are trained.

    `document` is the span of the document in the text of the last user's turn, None if all of its text is content.
    """

    messages: tuple[Turn, ...]
    trained: tuple[int, ...]
    document: Span | None = None


@dataclass(frozen=True, eq=False)
class ChatForm:
    """How an example becomes ids by a base's chat template; it has the same interface as `Form`.

    `shots` are examples whose turns come before an example's own. Raises SetupError if the base's template cannot be
    used for training.
    """

    tokenizer: Any
    chat: ChatConfig
    shots: tuple[Example, ...] = ()
    encoder_decoder: bool = field(default=False, init=False)
    parsed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        with told(self.tokenizer):
            _ = self.renderer
        self._check_template()

    @cached_property
    def renderer(self) -> Renderer:
        """What renders conversations."""
        return Renderer(self.tokenizer, self.chat)

    @property
    def template(self) -> str:
        """The text of the user's turn."""
        return self.chat.user

    @cached_property
    def constant(self) -> tuple[str, str]:
        """The texts of the user's turn before and after the document, if they are the same for all examples."""
        rows = prompt_template(self.chat.user)
        return rows.around({DOCUMENT: ""}) if rows.constant else ("", "")

    @property
    def lead(self) -> str:
        """What the template writes between the generation prompt and an answer."""
        return self.renderer.lead

    @cached_property
    def ending(self) -> str:
        """What the template writes after an answer up to the token that ends the turn; empty if there is no token."""
        return self.end_of(self.renderer.layout((USER, ASSISTANT), False)[-1])

    def end_of(self, after: str) -> str:
        """Return the text after an answer up to the first token in it; empty if there is none."""
        spans = self.renderer.controls_in(after)
        return after[: spans[0][1]] if spans else ""

    @cached_property
    def end_id(self) -> int:
        """The id that ends an answer: that of the template, or the tokenizer's end of text."""
        if not self.ending:
            return self.tokenizer.eos_token_id
        return text_ids(self.tokenizer, [Text(self.ending)])[0].ids[-1]

    @property
    def target_begin(self) -> list[int]:
        """No ids: an answer begins with its own text."""
        return []

    @property
    def target_end(self) -> list[int]:
        """The id that ends an answer."""
        return [self.end_id]

    @cached_property
    def rendered(self) -> str:
        """A hash of what the template writes around turns, and of what the config says besides the user's text."""
        first = [SYSTEM] if self.chat.system else []
        orders = [(*first, *roles) for roles in ((USER,), (USER, ASSISTANT), (USER, ASSISTANT, USER, ASSISTANT))]
        layouts = [self.renderer.layout(roles, roles[-1] == USER) for roles in orders]
        own = self.chat.model_dump(exclude={"user", "date"} | ({"train_on"} if self.chat.train_on == "all" else set()))
        return hash_of([layouts, own, self.renderer.control, self.end_id])

    def _check_template(self) -> None:
        """Raise SetupError if the template cannot tell where an answer begins."""
        name = self.tokenizer.name_or_path
        with told(self.tokenizer):
            prompt, whole = self.renderer.layout((USER,), True), self.renderer.layout((USER, ASSISTANT), False)
            if whole[0] != prompt[0]:
                raise TemplateError(
                    "begins a conversation differently if it has an answer, so what is trained is not what is generated"
                )
            if not whole[1].startswith(prompt[1]):
                raise TemplateError(
                    f"ends a prompt with {prompt[1]!r:.80}, but writes {whole[1]!r:.80} before an answer, so what is "
                    "trained is not what is generated"
                )
            special = [text for text in self.tokenizer.all_special_tokens if text in self.lead]
            if special:
                raise TemplateError(f"has no generation prompt: an answer itself would begin with {self.lead!r:.80}")
            if self.chat.system:
                self.renderer.layout((SYSTEM, USER), True)
        if not hasattr(self.tokenizer, "backend_tokenizer"):
            raise SetupError(f"chat: {name}: its tokenizer does not report where its tokens are in a text. {OFF}")

    @property
    def system(self) -> list[Turn]:
        """The config's system text as a turn, for examples that have none of their own."""
        return [(SYSTEM, self.chat.system)] if self.chat.system else []

    @property
    def shown(self) -> list[Turn]:
        """The turns of `shots`."""
        pairs = (((USER, self.user(shot)[0]), (ASSISTANT, shot.summary.rstrip())) for shot in self.shots)
        return [turn for pair in pairs for turn in pair]

    def with_shots(self, shots: Sequence[Example]) -> "ChatForm":
        """Return this form with other `shots`; what it knows of the template stays known."""
        made = copy(self)
        object.__setattr__(made, "shots", tuple(shots))
        return made

    def tested(self) -> "ChatForm":
        """Return the form of the test split, whose conversations are asked for their last answer."""
        return replace(self, chat=self.chat.model_copy(update={"train_on": "last"}))

    def check(self, turns: Sequence[Turn]) -> None:
        """Raise TemplateError if the template refuses turns of these roles, or does not know one."""
        self._check_roles(tuple(role for role, _ in turns))

    @cached_property
    def _check_roles(self) -> Callable[[tuple[str, ...]], None]:
        @lru_cache(maxsize=1000)
        def refusal(roles: tuple[str, ...]) -> str | None:
            if TOOL in roles and not re.search(rf"['\"]{TOOL}['\"]", self.renderer.source):
                return f"does not know the role '{TOOL}'"
            turns = [(role, MARK.format(number)) for number, role in enumerate(roles)]
            example = Example("", "-", turns[-1][1], turns=tuple(turns[:-1]))
            try:
                self._laid_out(self.conversation(example))
            except TemplateError as error:
                return str(error)
            return None

        def check(roles: tuple[str, ...]) -> None:
            if reason := refusal(roles):
                raise TemplateError(reason)

        return check

    def user(self, example: Example) -> tuple[str, int]:
        """Return the text of an example's own turn, and where its document begins."""
        before, after = ("", "") if example.turns else example.around or self.constant
        return before + example.document + after, len(before)

    def conversation(self, example: Example) -> Conversation:
        """Return an example's turns, after the system text and the turns of `shots`."""
        answer = (ASSISTANT, example.summary.rstrip())
        if example.turns:
            own = [*example.turns, answer]
            first = [own.pop(0)] if own[0][0] == SYSTEM else self.system
            turns = [*first, *self.shown, *own]
            answers = [n for n, (role, _) in enumerate(turns) if role == ASSISTANT and n >= len(turns) - len(own)]
            return Conversation(tuple(turns), tuple(answers if self.chat.train_on == "all" else answers[-1:]))
        content, start = self.user(example)
        turns = [*self.system, *self.shown, (USER, content), answer]
        return Conversation(tuple(turns), (len(turns) - 1,), (start, start + len(example.document)))

    def rows(self, conversations: Sequence[Conversation]) -> list[ChatRow]:
        """Return conversations as ids; raise TemplateError if the template refuses one, or changes its prompts."""
        laid_out = [self._laid_out(conversation) for conversation in conversations]
        texts = [text for one in laid_out for text in one.texts()]
        ids = iter(text_ids(self.tokenizer, texts))
        return [one.row(self.tokenizer, [next(ids) for _ in one.texts()]) for one in laid_out]

    def _laid_out(self, given: Conversation) -> LaidOut:
        messages, renderer = given.messages, self.renderer
        if len(given.trained) > 1 and not self.ending:
            raise TemplateError("ends an answer without a token, so only the last is trained. Set chat.train_on: last")
        whole = renderer.whole(messages)
        pieces = renderer.layout(tuple(role for role, _ in messages), False)
        edges = []
        for turn in given.trained:
            start, last = len(prompt := renderer.text(messages[:turn], True)), whole.spans[turn][1]
            end = last + len(self.end_of(pieces[turn + 1]))
            until = whole.text if turn == len(messages) - 1 else renderer.text(messages[: turn + 1], False)
            if not whole.text.startswith(prompt) or not whole.text.startswith(until[:end]):
                raise TemplateError(
                    f"changes turn {turn + 1} ({ASSISTANT}), or what comes before it, when the conversation continues, "
                    "so what is trained is not what is generated. Set chat.train_on: last"
                )
            edges.append((start, end))
        literal = self.literal(whole.text, whole.spans)
        inside = {start for start, _ in literal}
        tokens = [start for start, _ in renderer.controls_in(whole.text) if start not in inside]
        begin = self._document(given, whole, edges[0][0])
        return LaidOut(whole.text, literal, tokens, edges, begin, None if self.ending else self.end_id)

    def prompts(self, conversations: Sequence[Conversation]) -> list[tuple[list[int], Span]]:
        """Return the ids of conversations whose answer is to be written, and the span of each document in them."""
        texts, documents = [], []
        for given in conversations:
            found = self.renderer.prompt(given.messages)
            texts.append(Text(found.text, self.literal(found.text, found.spans)))
            documents.append(self._document(given, found, len(found.text)))
        ids = text_ids(self.tokenizer, texts)
        return [(i.ids, (i.until(start), i.until(end))) for i, (start, end) in zip(ids, documents, strict=True)]

    def _document(self, given: Conversation, found: Rendered, prompt: int) -> Span:
        """Return the span of the document in a rendered text; without a document, that of the whole prompt."""
        if given.document is None:
            return 0, prompt
        turn = max(n for n, (role, _) in enumerate(given.messages) if role == USER)
        content, (first, last) = given.messages[turn][1], found.spans[turn]
        removed = content.find(found.text[first:last])  # white space before it, which the template leaves out
        start, end = (max(0, place - removed) for place in given.document)
        return first + start, min(last, first + end)

    def literal(self, text: str, spans: Iterable[Span]) -> tuple[Span, ...]:
        """Return the spans of the template's tokens in turns' own texts, which are no tokens there."""
        return tuple(
            (start + first, start + last)
            for start, end in spans
            for first, last in self.renderer.controls_in(text[start:end])
        )

    def parts(self, examples: Sequence[Example]) -> list[Parts]:
        """Return the examples as ids; raise TemplateError if the template refuses one, or changes its prompts."""
        return [
            Parts(row.prompt[:start], row.prompt[start:end], row.prompt[end:], row.target, row.gaps)
            for row in self.rows([self.conversation(example) for example in examples])
            for start, end in [row.document]
        ]

    def _asked(self, example: Example) -> Conversation:
        given = self.conversation(example)
        return replace(given, messages=given.messages[:-1], trained=())

    def prompt(self, example: Example) -> list[int]:
        """Return the ids of an example's prompt."""
        return self.prompts([self._asked(example)])[0][0]

    def around(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Return the ids before and after the document in each example's prompt."""
        found = self.prompts([self._asked(example) for example in examples])
        return [(ids[:start], ids[end:]) for ids, (start, end) in found]

    def targets(self, summaries: list[str]) -> list[list[int]]:
        """Return the complete target of each answer."""
        return [row.target for row in self.rows([self.conversation(Example("", "-", text)) for text in summaries])]

    def texts(self, outputs: Iterable[Sequence[int]], indented: bool) -> list[str]:
        """Return generated ids as texts; white space at their beginning stays if targets are `indented`."""
        texts = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        return [plain(text.removeprefix(self.lead), indented) for text in texts]


@contextmanager
def told(tokenizer: Any) -> Iterator[None]:
    """Turn errors of a base's chat template into one line."""
    try:
        yield
    except TemplateError as error:
        raise SetupError(f"chat: the chat template of {tokenizer.name_or_path} {error}. {OFF}") from None
