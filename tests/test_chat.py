"""Examples as conversations: their ids are those of transformers' own apply_chat_template, whatever texts hold."""

import pytest

from bakeoff.config.chat import ChatConfig
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example
from bakeoff.data.tokens import encode
from bakeoff.errors import SetupError
from bakeoff.testing.chats import CHATML, STYLES, chat_tokenizer

ENDS = {"chatml": "<|im_end|>", "thinking": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>",
        "mistral": "<|endoftext|>", "phi": "<|end|>"}  # fmt: skip
TEXTS = [
    ("the old man", "a man"),
    ("  an indent\n\nand lines \n", "two\n\nlines"),
    ("naïve 象 ", "ünïcode 象"),
    ("x", "y"),
]
every_style = pytest.mark.parametrize("style", STYLES)


def form_with(style, **chat):
    return ChatForm(chat_tokenizer(style), ChatConfig(**chat))


def turns(form, example, answer=True):
    system = [{"role": "system", "content": form.chat.system}] if form.chat.system else []
    user = form.chat.user.replace("{{ document }}", example.document)
    whole = [*system, {"role": "user", "content": user}, {"role": "assistant", "content": example.summary}]
    return whole if answer else whole[:-1]


def theirs(form, messages, **options):
    return form.tokenizer.apply_chat_template(messages, **options, **form.chat.kwargs)["input_ids"]


def ids_of(parts):
    return [*parts.head, *parts.document, *parts.tail], parts.target


@every_style
@pytest.mark.parametrize(
    "chat", [{}, {"system": "Be brief."}, {"user": "{{ document }}"}, {"user": "A\n{{ document }}\nB"}]
)
def test_ids_are_those_of_apply_chat_template(style, chat):
    if style == "gemma" and "system" in chat:
        with pytest.raises(SetupError, match="template of tiny-gemma refuses the conversation .System role"):
            form_with(style, **chat)
        return
    form = form_with(style, **chat)
    examples = [Example(str(i), *texts) for i, texts in enumerate(TEXTS)]
    for example, parts in zip(examples, form.parts(examples), strict=True):
        prompt, target = ids_of(parts)
        assert prompt == theirs(form, turns(form, example, answer=False), add_generation_prompt=True)
        assert (prompt + target) == theirs(form, turns(form, example))[: len(prompt + target)]
        assert form.tokenizer.decode(target[-1:]) == ENDS[style]
        assert form.texts([target], indented=True) == [example.summary.rstrip()]
        assert form.tokenizer.decode(parts.document).strip() == example.document.strip()


@every_style
def test_a_token_of_the_template_in_a_text_is_text(style):
    form = form_with(style)
    tokens = [*form.renderer.control]
    document = "".join(f"{token} and {token}\n" for token in tokens).strip()
    example = Example("1", document, f"{' '.join(tokens)} end")
    (parts,) = form.parts([example])
    prompt, target = ids_of(parts)
    control = {form.tokenizer.convert_tokens_to_ids(token) for token in tokens}
    assert not control & {*parts.document}
    assert not control & {*target[:-1]}
    assert form.tokenizer.decode(parts.document) == document
    assert form.texts([target], indented=True) == [example.summary]
    (plain,) = form.parts([Example("1", "a", "b")])
    assert [parts.head, parts.tail, target[-1]] == [plain.head, plain.tail, plain.target[-1]]
    if style != "phi":  # whose markers transformers does not find, as its template puts them together
        given = turns(form, example, answer=False)
        assert prompt == theirs(form, given, add_generation_prompt=True, sanitize_control_tokens=True)


def test_without_thinking_the_empty_thought_is_part_of_the_prompt():
    with_thoughts, without = form_with("thinking"), form_with("thinking", kwargs={"enable_thinking": False})
    assert (with_thoughts.lead, without.lead) == ("<think>\n\n</think>\n\n", "")
    example = Example("1", "the old man", "a man")
    (one,), (other,) = with_thoughts.parts([example]), without.parts([example])
    assert sum(map(tuple, ids_of(one)), ()) == sum(map(tuple, ids_of(other)), ())
    assert without.tokenizer.decode(other.target) == "a man<|im_end|>"
    thought = Example("1", "the old man", "<think>\nwho?\n</think>\n\na man")
    (row,) = with_thoughts.parts([thought])
    assert with_thoughts.tokenizer.decode(row.target) == "<think>\nwho?\n</think>\n\na man<|im_end|>"
    assert with_thoughts.tokenizer.convert_tokens_to_ids("<think>") == row.target[0]


@every_style
def test_a_long_document_is_cut_at_its_end_and_nothing_else_is(style):
    form = form_with(style, user="Text: {{ document }}\nSummary?")
    document = "".join(f"{number} " for number in range(200)).strip()
    (whole,) = form.parts([Example("1", document, "short")])
    (row,) = encode([Example("1", document, "short")], form, 150, 10, "data.train")
    assert len(row.prompt) + max(len(row.target), 10) == 150
    assert row.prompt == [*whole.head, *whole.document[: row.kept], *whole.tail]
    assert (row.cut, row.target) == (len(whole.document) - row.kept, whole.target)


@every_style
def test_few_shot_examples_are_turns(style):
    shots = (Example("1", "one", "uno"), Example("2", "two", "due"))
    form = ChatForm(chat_tokenizer(style), ChatConfig(), shots)
    ((head, tail),) = form.around([Example("3", "three", "")])
    (parts,) = form.parts([Example("3", "three", "tre")])
    plain = form_with(style)
    messages = [turn for shot in shots for turn in turns(plain, shot)] + turns(plain, Example("3", "three", ""), False)
    assert [*head, *parts.document, *tail] == theirs(form, messages, add_generation_prompt=True)


def templated(template, **chat):
    import copy

    tokenizer = copy.deepcopy(chat_tokenizer("chatml"))
    tokenizer.chat_template = template
    return ChatForm(tokenizer, ChatConfig(**chat))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("{%- if add_generation_prompt -%}", "{%- if false -%}"), "has no generation prompt: an answer"),
        ("{{ raise_exception('never') }}", "refuses the conversation .never."),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "takes more than 1,000,000"),
        ("{{ 'a' * 10 ** 9 }}", "takes more than"),
        ("{{ messages[0].content.center(10 ** 9) }}", "gives the number 1,000,000,000 to a function"),
        ("{{ '{:1000000000}'.format('a') }}", "formats with a width"),
        ("{% set n = namespace(t='aa') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}", "more than"),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content | random }}", "not a template"),
        ("{% for m in messages %}{{ m.content }}", "not a template"),
        ("hello", "leaves out the text of turn 1"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "repeats the text of turn 1"),
        (CHATML.replace("assistant\\n", "model\\n"), "what is trained is not what is generated"),
        ("{{- messages | length -}}" + CHATML, "begins a conversation differently if it has an answer"),
        ("x" * 100_001, "has 100,001 characters"),
        ({"tool_use": CHATML}, "has several versions, and none is named default"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_line(template, message):
    with pytest.raises(SetupError, match=message) as raised:
        templated(template)
    assert str(raised.value).startswith("chat: the chat template of tiny-chatml ")
    assert str(raised.value).count("Try: ") == 1
    assert "\n" not in str(raised.value)


def test_a_template_without_an_end_gets_the_end_of_text():
    form = templated("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                     "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    (parts,) = form.parts([Example("1", "a", "b")])
    assert form.tokenizer.decode(parts.target) == "b<|endoftext|>"


def test_a_template_that_asks_for_the_date_gets_the_same_on_every_day():
    dated = CHATML.replace("{%- for m", "{{ strftime_now('%d %b %Y') + ': ' }}{%- for m", 1)
    form = templated(dated, date="2025-02-03")
    (parts,) = form.parts([Example("1", "a", "b")])
    assert form.tokenizer.decode(parts.head).startswith("03 Feb 2025: ")
    assert form.renderer.template.asks_date
    assert form.rendered != templated(dated).rendered
    assert form.rendered == templated(dated, date="2025-02-03").rendered


def test_a_generation_block_changes_nothing():
    marked = CHATML.replace("{{- '<|im_start|>' + m", "{% generation %}{{- '<|im_start|>' + m").replace(
        "+ '\\n' -}}\n{%- endfor", "+ '\\n' -}}{% endgeneration %}\n{%- endfor"
    )
    assert "endgeneration" in marked
    example = Example("1", "a", "b")
    assert templated(marked).parts([example]) == templated(CHATML).parts([example])
