"""Chat templates that would take all memory or time, and what honest ones need."""

import resource

import pytest

from bakeoff.compute.run.request import forked
from bakeoff.config.chat_sandbox import ChatTemplate
from bakeoff.config.sandbox import TemplateError

TURNS = [{"role": "user", "content": "hello\nthere"}]
MORE_MEMORY = 1 << 30


def grown(text, times=17):
    """Return the beginning of a template in which n.t is a text, repeated."""
    doubled = "{% set n.t = n.t ~ n.t %}"
    return f"{{% set n = namespace(t='{text}') %}}{{% for i in range({times}) %}}{doubled}{{% endfor %}}"


def shared(name):
    """Return the beginning of a template in which n.NAME is a list with 2^40 parts, most of them the same."""
    twice = f"{{% set n.{name} = [n.{name}, n.{name}] %}}"
    return f"{{% set n = namespace({name}=['a']) %}}{{% for i in range(40) %}}{twice}{{% endfor %}}"


LOOPS = "{% for i in range(900) %}{% for j in range(900) %}" + "y" * 50_000 + "{% endfor %}{% endfor %}"
HUGE = {
    "replace": grown("a") + "{{ n.t.replace('a', n.t) | length }}",
    "replace by name": grown("a") + "{{ n.t | replace(new=n.t, old='a') | length }}",
    "join": grown("a") + "{{ n.t.join(n.t) | length }}",
    "join filter": grown("a") + "{{ n.t | join(n.t) | length }}",
    "join by name": grown("a") + "{{ n.t | list | join(d=n.t) | length }}",
    "expandtabs": grown("a") + "{{ n.t.expandtabs() }}",
    "translate": grown("a") + "{{ n.t.translate({97: n.t}) | length }}",
    "indent": grown("a\\n") + "{{ n.t | indent(9999) | length }}",
    "indent with a text": grown("a\\n") + "{{ n.t | indent(n.t) | length }}",
    "format": grown("{0}") + "{{ n.t.format(n.t) | length }}",
    "format by name": grown("%(a)s") + "{{ n.t | format(a=n.t) | length }}",
    "percent": grown("%(a)s") + "{{ (n.t % {'a': n.t}) | length }}",
    "wrapping": grown("a") + "{{ n.t | wordwrap(1, true, n.t) | length }}",
    "JSON": shared("t") + "{{ n.t | tojson | length }}",
    "indented JSON": "{{ [[[[1]]]] | tojson(indent=9999) }}",
    "a list as text": shared("t") + "{{ n.t | string | length }}",
    "a list": shared("t") + "{{ n.t }}",
    "a list in a text": shared("t") + "{{ 'a' ~ n.t }}",
    "values as text": shared("t") + "{{ {'a': n.t}.values() | string }}",
    "a list in a list": shared("t") + "{{ n.t in [[[1]]] }}",
    "equal lists": shared("t") + "{% set m = n %}" + shared("u") + "{{ m.t == n.u }}",
    "equal by a test": shared("t") + "{% set m = n %}" + shared("u") + "{{ [m.t] | select('eq', n.u) | list }}",
    "counted in a list": shared("t") + "{% set m = n %}" + shared("u") + "{{ [m.t].count(n.u) }}",
    "a key": shared("t").replace("[n.t, n.t]", "(n.t, n.t)").replace("['a']", "'a'") + "{{ {1: 2}.get(n.t) }}",
    "sorted lists": shared("t") + "{% set m = n %}" + shared("u") + "{{ [m.t, n.u] | sort }}",
    "a namespace": "{% set n = namespace(t=1) %}{% for i in range(40) %}{% set n.t = namespace(a=n.t, b=n.t) %}"
    "{% endfor %}{{ (n.t ~ '').replace('<Namespace>', raise_exception('is short')) }}",
    "text in a loop": "{% set a %}" + LOOPS + "{% endset %}",
    "text in a macro's loop": "{% macro f() %}" + LOOPS + "{% endmacro %}{{ f() | length }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_template_that_would_be_huge_is_refused_before_it_is(name):
    def renders():
        with open("/proc/self/statm") as file:  # noqa: PTH123
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, now + MORE_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        try:
            ChatTemplate(HUGE[name], "2026-01-01").render(TURNS, {}, True)
        except TemplateError as error:
            return 2 if str(error) in ("MemoryError", "") else 0
        return 1

    assert forked(renders) == 0


NEEDED = {
    "{{ messages[0].content.replace('hello', 'good day') | trim | upper }}": "GOOD DAY\nTHERE",
    "{{ messages | tojson(indent=1) }}": '[\n {\n  "role": "user",\n  "content": "hello\\nthere"\n }\n]',
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}": "hello\nthere",
    "{{ messages[0].content | indent(2) }}": "hello\n  there",
    "{{ '%s: %d' % ('a', 3) }}{{ '{}-{}'.format(1, 'b') }}": "a: 31-b",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}": "a2b1",
    "{{ ', '.join(['a', 'b']) }}{{ none }}{{ true }}{{ missing }}": "a, bNoneTrue",
    "{% if 'content' in messages[0] and messages[0].content is string %}yes{% endif %}": "yes",
}


@pytest.mark.parametrize("source", NEEDED)
def test_what_honest_templates_use_is_as_in_transformers(source):
    from transformers.utils.chat_template_utils import render_jinja_template

    assert ChatTemplate(source, "2026-01-01").render(TURNS, {}, True) == NEEDED[source]
    (theirs,), _ = render_jinja_template([TURNS], chat_template=source, add_generation_prompt=True)
    assert theirs == NEEDED[source]


def test_a_long_conversation_takes_few_steps():
    alternates = (
        "{% if not loop.first and messages[loop.index0 - 1].role == m.role %}{{ raise_exception('!') }}{% endif %}"
    )
    written = "<|{{ m.role }}|>{{ m.content | trim }}{{ messages | length }}"
    source = f"{{% for m in messages %}}{alternates}{written}{{% endfor %}}"
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 400} for i in range(400)]
    assert len(ChatTemplate(source, "2026-01-01").render(turns, {}, True)) > 400 * 2000


@pytest.mark.parametrize("way", [
    "{{ 'loops' if 'wordwrap' is filter }}", "{{ 'loops' if 'sequence' is test }}", "{{ lipsum() }}",
    "{{ 'loops' if namespace() ~ '' != '<Namespace>' }}",
])  # fmt: skip
def test_a_template_cannot_tell_that_it_is_rendered_with_limits(way):
    """Else it could loop where the plan compares it with transformers' own rendering, which has no limits."""
    with pytest.raises(TemplateError):
        ChatTemplate(way, "2024-01-01").render(TURNS, {}, True)


def test_all_names_of_transformers_exist():
    template = ChatTemplate("{{ lipsum is defined and range is defined and strftime_now is defined }}", "2024-01-01")
    assert template.render(TURNS, {}, True) == "True"
