"""Chat templates: the same text as jinja2 makes of them, and nothing unsafe."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2.ext
import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import BOS, EOS, R1, R1_0528, V3, small_folder

from fullbore.errors import CheckpointError
from fullbore.server.template import ChatTemplate, TemplateError, content_text, find_template

HERE = Path("model/tokenizer_config.json")

# What published templates use: methods, slices, filters, tests, macros, loop controls.
FEATURES = """
{%- macro shown(tool) -%}
{{ tool.name }}: {{ tool | tojson(indent=2) }}
{%- endmacro -%}
{% set rest = messages[1:] if messages[0].role == 'system' else messages %}
{% for m in messages[::-1] %}{% if m.role == 'user' %}{{ loop.index0 }}{% break %}{% endif %}{% endfor %}
{% for m in rest %}
    {%- if m.content is none or m.content is not string %}{% continue %}{% endif %}
    {{- m['role'].upper() ~ loop.index }}: {{ m.content.split('</think>') | last }}
    {%- if m.content.startswith('a') and not m.content.endswith('b') %} [a]{% endif %}
    {%- if 'name' in m and m.get('name') %} {{ shown(m) }}{% endif %}
    {%- if loop.first %} first{% endif %}{% if loop.last %} last{% endif %}
    {%- if m.content.split(' ')[-1].lower().rstrip('\\n').replace('c', 'd') == 'd' %} D{% endif %}
    {{- m.content | trim | length }}{{ m.content[:3] }}{{ m.role.title() }}
{% endfor %}
{% generation %}
{{ messages | length }} {{ true }} {{ none }} {{ 7 // 2 }} {{ messages | map(attribute='role') | join(',') }}
{%- endgeneration %}
{% set ns = namespace(n=0) %}
{% for m in messages if m.role != 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}
"""


def oracle(source: str, **variables: Any) -> str:
    """As Hugging Face renders templates."""
    return compiled(source).render(bos_token=BOS, eos_token=EOS, tools=None, documents=None, **variables)


@cache
def compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    source = source.replace("{% generation %}", "{% if true %}").replace(
        "{%- endgeneration %}", "{%- endif %}"
    )
    return environment.from_string(source)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, HERE, BOS, EOS)


COMPILED = {source: template(source) for source in (R1, R1_0528, V3, FEATURES)}

WORDS = st.sampled_from(
    ["</think>", "<think>", "\n", " ", "a", "b", "c", "A<b>&'\"", "{{ x }}", "{% if %}", "你好🙂"]
)
# Python counts four separators of ASCII as white space, Unicode and minijinja do not.
OTHER = st.text(st.characters(exclude_characters="\x1c\x1d\x1e\x1f", exclude_categories=["Cs"]), max_size=2)
TEXT = st.lists(WORDS | OTHER, max_size=6).map("".join)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": TEXT}, optional={"name": TEXT}
)
SYSTEM = st.fixed_dictionaries({"role": st.just("system"), "content": TEXT})


@settings(deadline=None)
@given(
    source=st.sampled_from(sorted(COMPILED)),
    system=st.lists(SYSTEM, max_size=1),
    messages=st.lists(MESSAGE, min_size=1, max_size=4),
    add=st.booleans(),
)
def test_rendered_as_jinja2_renders(
    source: str, system: list[dict[str, str]], messages: list[dict[str, str]], add: bool
) -> None:
    messages = system + messages
    expected = oracle(source, messages=messages, add_generation_prompt=add)
    assert COMPILED[source].render(messages, add) == expected


def test_variables_reach_the_template() -> None:
    rendered = COMPILED[V3].render([{"role": "user", "content": "a"}], True, thinking=True)
    assert rendered.rstrip().endswith("<think>")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages.__class__ }}", "__class__"),
        ("{{ messages['__cla' ~ 'ss__'] }}{{ x | attr('__mro__') }}", "__mro__"),
        ("{% include 'other' %}", "loads another template"),
        ("{%- import 'other' as other %}", "loads another template"),
        ("{% extends 'other' %}", "loads another template"),
        ("{% for m in messages %}", "no template"),
        ("{{ messages | nonsense }}", "nonsense"),
        ("{{ nonsense() }}", "nonsense"),
        ("{{ messages[0].content.nonsense() }}", "nonsense"),
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "fuel"),
        ("x" * (2 << 20), "larger than"),
    ],
)
def test_unsafe_or_broken_templates_are_refused_at_the_start(source: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        template(source)
    assert "tokenizer_config.json" in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{{ messages.append }}", "{{ messages['__cla' ~ 'ss__'] }}", "{{ self }}"]
)
def test_python_is_out_of_reach(source: str) -> None:
    """What the search for names does not find leads nowhere either."""
    rendered = ChatTemplate(source, HERE, BOS, EOS).render([{"role": "user", "content": "a"}], True)
    assert "class" not in rendered


def test_a_template_refuses_in_its_own_words() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(TemplateError, match="the system message must come first"):
        COMPILED[V3].render(messages, True)


def test_a_template_that_needs_a_system_message_is_accepted() -> None:
    strict = template("{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}ok")
    assert strict.render([{"role": "system", "content": "a"}], True) == "ok"
    with pytest.raises(TemplateError, match="no system"):
        strict.render([{"role": "user", "content": "a"}], True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[1].a.b }}",
        "{{ messages | tojson(indent='x', nonsense=1) }}",
        "{{ messages | tojson(ensure_ascii=true) }}",
        "{{ messages[1].pop('nothing') }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    ],
)
def test_failures_while_rendering_are_the_requests(source: str) -> None:
    guarded = template("{% if messages | length > 1 %}" + source + "{% endif %}")
    with pytest.raises(TemplateError):
        guarded.render([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], True)


def test_the_file_beside_the_config_goes_first(tmp_path: Path) -> None:
    folder = small_folder(tmp_path, "from the config")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert find_template(folder, config) == ("from the config", folder / "tokenizer_config.json")
    (folder / "chat_template.jinja").write_text("from the file")
    assert find_template(folder, config) == ("from the file", folder / "chat_template.jinja")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        find_template(folder, config)


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    assert find_template(tmp_path, {"chat_template": named}) == ("d", tmp_path / "tokenizer_config.json")
    assert find_template(tmp_path, {}) is None


def test_a_template_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = small_folder(tmp_path / "model")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside"):
        find_template(folder, {})


@given(texts=st.lists(st.text()))
def test_text_parts_are_joined(texts: list[str]) -> None:
    assert content_text([{"type": "text", "text": text} for text in texts]) == "".join(texts)
