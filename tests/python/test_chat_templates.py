"""Chat templates are hostile until shown otherwise: sandbox and budgets (G-45..G-49)."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

import smallmind as sm
from smallmind.template import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": '  Hello <b>"you"</b>, ünï 🙂 \n'},
    {"role": "assistant", "content": "thought</think>answer"},
    {"role": "user", "content": "x"},
]
VARIABLES: dict[str, Any] = {
    "messages": MESSAGES,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "tools": None,
}


def render(source: str) -> str:
    return ChatTemplate(source).render(VARIABLES)


ESCAPES = """
{{ ''.__class__ }}
{{ ''['__class__'] }}
{{ ''|attr('__class__') }}
{{ ().__class__.__bases__[0].__subclasses__() }}
{{ (1).__class__ }}
{{ [].__class__.__mro__ }}
{{ {}.__class__ }}
{{ messages.__class__ }}
{{ messages[0].__class__ }}
{{ messages[0]['content'].__class__ }}
{{ messages.__len__() }}
{{ messages.append(1) }}
{{ messages[0].update({'a': 1}) }}
{{ messages.clear() }}
{{ messages[0].pop('role') }}
{{ 'a'.format(1) }}
{{ '{0.__class__}'.format(1) }}
{{ '{a}'.format_map({'a': 1}) }}
{{ '%s'|format(1) }}
{{ '%c' % 65 }}
{{ 'a'.encode() }}
{{ 'a'.translate({}) }}
{{ 'a'.zfill(9) }}
{{ cycler.__init__.__globals__ }}
{{ cycler('a').next() }}
{{ joiner()() }}
{{ lipsum() }}
{{ lipsum.__globals__['os'] }}
{{ namespace.__init__.__globals__ }}
{{ namespace.__mro__ }}
{% set n = namespace(__class__=1) %}{{ n.__class__ }}
{% set n = namespace(a=1) %}{{ n['__dict__'] }}
{% set n = namespace(a=1) %}{{ n._Namespace__attrs }}
{% set n = namespace(a=1) %}{% set n.__class__ = 1 %}
{{ self }}
{{ self.__init__ }}
{{ self._TemplateReference__context }}
{{ range.__self__ }}
{{ range }}
{{ dict.__base__ }}
{{ raise_exception.__globals__ }}
{{ raise_exception.__code__ }}
{{ strftime_now.__globals__ }}
{% macro m() %}{% endmacro %}{{ m.__globals__ }}
{% macro m() %}{% endmacro %}{{ m._func }}
{% macro m() %}{% endmacro %}{{ m.name }}
{% macro m() %}{% endmacro %}{{ m }}
{% for m in messages %}{{ loop.__init__ }}{% endfor %}
{% for m in messages %}{{ loop._iterable }}{% endfor %}
{% for m in messages %}{{ loop.cycle.__self__ }}{% endfor %}
{% for m in messages recursive %}{{ loop(m) }}{% endfor %}
{{ ''.join.__self__ }}
{{ messages|map(attribute='__class__')|list }}
{{ messages|map('attr', '__class__')|list }}
{{ messages|map('_output')|list }}
{{ messages|selectattr('__class__')|list }}
{{ messages|sort(attribute='__class__') }}
{{ messages|groupby('role') }}
{{ messages|xmlattr }}
{{ 'x'|urlize }}
{{ 'x'|pprint }}
{{ [1]|random }}
{{ x.y.z }}
{{ url_for.__globals__ }}
{{ get_flashed_messages.__globals__ }}
{{ config.items() }}
{{ request.application }}
{% include '/etc/passwd' %}
{% import 'os' as os %}
{% from 'os' import path %}
{% extends 'base' %}
{% block a %}{% endblock %}
{% autoescape true %}{% endautoescape %}
{{ 1/0 }}
{{ undefined_function() }}
{% if %}
{{ unclosed
{% endfor %}
{{ 'a' + 1 }}
{{ raise_exception('roles must alternate') }}
""".strip().splitlines()


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    # G-45: no attribute of anything but the listed ones exists.
    with pytest.raises(sm.TemplateError) as caught:
        render(source)
    assert "object at 0x" not in str(caught.value)
    assert "/" not in str(caught.value).replace("</", "").replace("'/etc/passwd'", "")[:80]
    assert MESSAGES[0] == {"role": "system", "content": "Be kind."}


def test_the_template_s_own_error_is_the_message() -> None:
    with pytest.raises(sm.TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "(" * 10**5,
        "{{ " + "(" * 10**5,
        "{{ " + "(" * 10**5 + "1" + ")" * 10**5 + " }}",
        "{{ " + "[" * 10**5,
        "{{ " + "{'a':" * 5_000,
        "{% if x %}" * 10**4,
        "{% for x in y %}" * 10**4,
        "{% macro m() %}" * 10**4,
        "{% set x %}" * 10**4,
        "{% filter upper %}" * 10**4,
        "{% call m() %}" * 10**4,
        "{{ x" + "|upper" * 10**4 + " }}",
        "{{ " + "not " * 10**4 + "x }}",
        "{{ " + "-" * 10**5 + "1 }}",
        "{{ " + "1+" * 10**5 + "1 }}",
        "{{ x" + ".a" * 10**5 + " }}",
        "{{ x" + "[0]" * 10**4 + " }}",
        "{{ " + "1 if x else " * 10**4 + "1 }}",
        "{{ " + "f(" * 10**4,
        "{{ " + "2**" * 10**4 + "2 }}",
    ],
    ids=lambda s: s[:24],
)
@pytest.mark.parametrize("stack", [None, 256 << 10], ids=["stack", "small-stack"])
def test_nesting_has_limits_before_anything_recurses(source: str, stack: int | None) -> None:
    # G-46, P-14
    caught: list[BaseException] = []

    def work() -> None:
        try:
            if render(source) != source:
                caught.append(AssertionError("rendered"))
        except BaseException as error:
            caught.append(error)

    if stack is None:
        work()
    else:
        old = threading.stack_size(stack)
        try:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        finally:
            threading.stack_size(old)
    if source.startswith("((("):
        assert not caught  # plain text
    else:
        assert [type(error) for error in caught] == [sm.ModelLimitError]


STEPS = [
    "{% for a in range(3000) %}{% for b in range(3000) %}x{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(2000000000) %}{% endfor %}",
    "{% for a in 'x' * 1000000 %}{{ loop.index }}{% endfor %}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{{ m(n-1) }}{{ m(n-1) }}{% endif %}"
    "{% endmacro %}{{ m(14) }}",
    "{% for a in range(1000) %}{% set x = range(1000)|list %}{% endfor %}",
    "{% for a in range(1000) %}{% set x = range(1000)|map('string')|join %}{% endfor %}",
    "{% for a in range(1000) %}{% if 7 in range(100000)|list %}{% endif %}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(9999) %}{% if 'c' in s %}{% endif %}"
    "{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(9999) %}{% set t = s[1:] %}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(9999) %}{% set t = s.upper() %}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(9999) %}{% set t = s.find('c') %}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(9999) %}{% set t = s|trim|tojson %}{% endfor %}",
    "{% set s = range(9999)|list %}{% for a in s %}{% if s == s[:] %}{% endif %}{% endfor %}",
    "{% set s = range(9999)|list %}{% for a in s %}{% set t = s|sort|unique %}{% endfor %}",
    "{% for a in range(999) %}" + "{% if a %}{% endif %}" * 3_000 + "{% endfor %}",
]


@pytest.mark.parametrize("source", STEPS, ids=lambda s: s[:60])
def test_steps_have_a_budget(source: str) -> None:
    # G-47: the aim is 50 ms on a quiet machine; the bound here leaves room for a busy one.
    template = ChatTemplate(source)
    start = time.thread_time()
    with pytest.raises(sm.ModelLimitError):
        template.render(VARIABLES)
    assert time.thread_time() - start < 0.5


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 200000000 }}",
        "{{ 200000000 * 'x' }}",
        "{{ [1] * 200000000 }}",
        "{{ (1, 2) * 200000000 }}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = [n.x, n.x]|join %}"
        "{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
        "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
        "{% set n.x = n.x.join([n.x, n.x, n.x]) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}"
        "{% endset %}{% endfor %}",
        "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x|tojson }}",
        "{{ 'x'|indent(1000000000) }}",
        "{{ ('x\n' * 1000000)|indent(64) }}",
        "{{ {'a': 1}|tojson(indent=1000000000) }}",
        "{{ strftime_now('%1000000000d') }}",
        "{{ 'a,' * 20000000 }}",
        "{{ range(1000000000)|list }}",
        "{{ range(1000000000)|join }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(100000) %}" + "y" * 1_000 + "{% endfor %}",
        "{% macro m() %}{{ 'y' * 1000000 }}{% endmacro %}"
        "{% for i in range(1000) %}{% set z = m() %}{% endfor %}",
    ],
    ids=lambda s: s[:50],
)
def test_output_and_what_is_made_have_a_budget(source: str) -> None:
    # G-48: checked before it is made.
    template = ChatTemplate(source)
    tracemalloc.start()
    try:
        with pytest.raises((sm.ModelLimitError, sm.TemplateError)):
            template.render(VARIABLES)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()


def test_a_template_has_a_size(engine: sm.Engine) -> None:
    # G-49
    with pytest.raises(sm.ModelLimitError, match="262144"):
        engine.chat_session(chat_template="x" * (256 << 10) + "y")
    assert engine.chat_session(chat_template="x" * (256 << 10)).render() == "x" * (256 << 10)
    with pytest.raises(TypeError, match="chat_template"):
        engine.chat_session(chat_template=b"x")  # type: ignore[arg-type]
    with pytest.raises(sm.TemplateError):
        engine.chat_session(chat_template="{{ messages[0].__class__ }}")


# What templates of real models use; each must come out as Jinja itself makes it.
SOUND = [
    "{% for m in messages %}{{ m.role }}{{ m['content'] | trim }}{{ eos_token }}{% endfor %}",
    "{%- for m in messages -%}\n  {{- '<|' + m['role'] + '|>' }}\n{%- endfor %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{{ s }}{{ rest | length }}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}odd"
    "{% elif not loop.last and m.content is string %}{{ loop.index }}{% endif %}{% endfor %}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages[::-1] %}{% if not ns.found and "
    "m.role == 'user' %}{% set ns.found = true %}{% set ns.n = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{{ ns.found }}{{ ns.n }}",
    "{% set c = messages[2].content %}{% if '</think>' in c %}"
    "{{ c.split('</think>')[-1].lstrip('\n') }}"
    "{{ c.split('</think>')[0].rstrip('\n').split('<think>')[-1] }}{% endif %}",
    "{{ messages | tojson }}{{ {'a': [1, none, true]} | tojson(indent=2) }}",
    "{% macro one(m, last=false) %}[{{ m.role|upper }}:{{ m.content|replace('l', 'L') }}{{ last }}]"
    "{% endmacro %}{% for m in messages %}{{ one(m, last=loop.last) }}{% endfor %}",
    "{{ messages | map(attribute='role') | join(', ') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list"
    " | first }}",
    "{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{{ messages[0].get('x', 'no') }}",
    "{% if tools is defined and tools %}T{% endif %}{% if x is not defined %}U{% endif %}"
    "{{ y | default('d') }}{{ none | default('e', true) }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% else %}"
    "none{% endfor %}",
    "{% for i in range(2, 9, 3) %}{{ i }}{% if i == 5 %}{{ i * 2 + 1 - 4 // 3 }}{% endif %}"
    "{% endfor %}",
    "{{ 'a' ~ 1 ~ true }}{{ 7 % 3 }}{{ 2 ** 5 }}{{ 7 / 2 }}{{ 'ab' * 3 }}{{ [1] + [2] }}",
    "{{ messages[1].content.strip().startswith('Hello') }}{{ 'x,y'.split(',') | last }}",
    "{% set text %}in {{ messages | length }} lines{% endset %}{{ text | title }}",
    "{{ 'one\ntwo' | indent(2) }}{{ 'one\ntwo' | indent(2, true) }}",
    "{% call(x) each() %}{{ x }}{% endcall %}",
    "{% macro each() %}<{{ caller(5) }}>{% endmacro %}{% call(x) each() %}{{ x }}{% endcall %}",
    "{{ messages[-1]['role'] if messages else 'none' }}{{ messages[10] is defined }}",
    "{{ [3, 1, 2] | sort | join }}{{ [1, 2, 3] | sum }}{{ [1, 5, 2] | max }}{{ 'abc' | reverse }}",
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ '3' | int + 4 }}{{ 3.7 | round | int }}{{ -3 | abs }}",
    "{{ 1 is odd }}{{ 'a' in ['a'] }}{{ 'a' not in 'b' }}{{ 1 < 2 <= 2 }}{{ none is none }}",
]


@pytest.mark.parametrize("source", SOUND, ids=lambda s: s[:50])
def test_what_models_use_comes_out_as_jinja_makes_it(source: str) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    import json

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    try:
        expected = environment.from_string(source).render(VARIABLES)
    except Exception:
        with pytest.raises(sm.TemplateError):
            render(source)
    else:
        assert render(source) == expected


def test_a_long_conversation_is_within_the_budget(engine: sm.Engine) -> None:
    messages = [
        {"role": role, "content": f"message {i} " * 20}
        for i in range(1_024)
        for role in ("user", "assistant")
    ]
    own = ChatTemplate(engine.tokenizer.chat_template or "")
    assert own.render({**VARIABLES, "messages": messages}).count("<|im_end|>") == 2_049
    for source in SOUND[:8]:
        ChatTemplate(source).render({**VARIABLES, "messages": messages})


def test_one_template_serves_many_threads(engine: sm.Engine) -> None:
    template = ChatTemplate(engine.tokenizer.chat_template or "")
    outputs: list[set[str]] = []

    def work(i: int) -> None:
        variables = {**VARIABLES, "messages": [{"role": "user", "content": f"thread {i}"}]}
        outputs.append({template.render(variables) for _ in range(100)})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert sorted(map(len, outputs)) == [1] * 8
    assert len(set.union(*outputs)) == 8
