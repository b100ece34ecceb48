import pytest

from afterbase.errors import CheckpointError, ConfigError, DataError
from afterbase.records import Message, Prompt
from afterbase.text import template
from afterbase.text.chat import TEMPLATES, prompt_tokens, render, render_text
from afterbase.text.template import HOUSE_TEMPLATE, layout

ASK = (Message("user", "What is 2 + 2?"),)
SLIDES = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks about "
    "the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. "
)


def shown(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special=False)


def test_the_house_lays_a_conversation_out_as_deepseek_does(house):
    messages = [Message("system", "Be brief."), *ASK, Message("assistant", "<think>\nadd </think> 4\n"), Message("user", "Sure?")]
    expected = (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>What is 2 + 2?"
        "<｜Assistant｜><think>\nadd </think> 4\n<｜end▁of▁sentence｜><｜User｜>Sure?"
    )
    assert render_text(house, messages, answering=False) == expected
    assert shown(house, render(house, messages, answering=True)) == expected + "<｜Assistant｜>"


def test_r1_zero_is_asked_in_the_words_of_the_slides(house):
    tokens = prompt_tokens(house, Prompt("1", ASK), "r1-zero")
    assert shown(house, tokens) == "<｜begin▁of▁sentence｜>" + SLIDES + "User: What is 2 + 2? Assistant:"
    talk = Prompt("1", (*ASK, Message("assistant", "4"), Message("user", "Sure?")))
    assert shown(house, prompt_tokens(house, talk, "r1-zero")).endswith("User: What is 2 + 2? Assistant: 4 User: Sure? Assistant:")


def test_plain_is_the_bare_text(house):
    assert shown(house, prompt_tokens(house, Prompt("1", ASK), "plain")) == "<｜begin▁of▁sentence｜>What is 2 + 2?"


def test_plain_texts_begin_as_the_checkpoint_says(house, monkeypatch):
    monkeypatch.setitem(house._config, "add_bos_token", False)
    assert shown(house, prompt_tokens(house, Prompt("1", ASK), "plain")) == "What is 2 + 2?"


def test_an_unknown_template_names_the_known_ones(house):
    with pytest.raises(ConfigError, match=", ".join(TEMPLATES)):
        prompt_tokens(house, Prompt("1", ASK), "zero")


def test_a_tokenizer_without_template_says_what_else_there_is(under):
    with pytest.raises(CheckpointError, match="no chat template"):
        render(under(None), ASK, answering=True)


def lay(template, messages=({"role": "user", "content": "Hi"},)):
    return layout(template, messages, True, {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n  {% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}", "Hi"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi"}'),
        ("{{ '<think>' | tojson }}", '"<think>"'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% if strftime_now is defined %}today{% else %}{{ bos_token }}{% endif %}{% if tools %}tools{% endif %}", "<s>"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ messages[0]['content'].strip() }}", "1Hi"),
    ],
)
def test_templates_find_what_they_expect(template, text):
    assert lay(template) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('system role not supported') }}", "refuses the conversation.*system role not supported"),
        ("{{ messages[0]['content'] + 1 }}", "fails on the conversation"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "refuses"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_a_data_error(template, says):
    with pytest.raises(DataError, match=says):
        lay(template)


def rendering(monkeypatch, seconds):
    """A rendering process of the test's own, with this much processor time for each conversation."""
    renderer = template.Renderer(seconds=seconds)
    monkeypatch.setattr(template, "_renderer", lambda: renderer)
    return renderer


DOUBLED = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"
FOREVER = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        ("{% for i in range(10**12) %}a{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not end within 0.3 s of processor time"),
        (FOREVER, "does not end within 0.3 s of processor time"),
        ("{{ 'a' * 10**12 }}", "MemoryError"),
        ("{{ 'a' | center(10**11) }}", "MemoryError"),
        ("{{ '%1000000000d' % 1 }}", "MemoryError"),
        (DOUBLED, "MemoryError"),
        ("{{ 'a' * 20000000 }}", "it writes 20,000,000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% include 'other' %}", "TypeError"),
    ],
)
def test_a_hostile_template_is_stopped_in_words_and_the_next_one_is_served(monkeypatch, hostile, says):
    rendering(monkeypatch, 0.3 if "processor time" in says else 60)  # other limits must not depend on how busy the machine is
    with pytest.raises(DataError, match=says) as caught:
        lay(hostile)
    assert "(user)" in str(caught.value) and "\n" not in str(caught.value)
    assert lay("{{ messages[0].content }}") == "Hi"


@pytest.mark.parametrize(("broken", "says"), [("{{ " + "(" * 20_000, "RecursionError"), ("{{ [1, 2] | random }}", "No filter named")])
def test_a_template_that_cannot_be_compiled_is_a_checkpoint_error(broken, says):
    with pytest.raises(CheckpointError, match=says):
        lay(broken)


def test_an_interrupt_between_question_and_answer_gives_nobody_the_wrong_answer(monkeypatch):
    renderer = rendering(monkeypatch, 60)

    def interrupt():
        raise KeyboardInterrupt

    assert lay("first") == "first"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(renderer._process.stdout, "readline", interrupt, raising=False)
        lay("second")
    assert lay("third") == "third"


def test_our_own_template_needs_no_process(monkeypatch):
    monkeypatch.setattr(template, "_renderer", None)
    assert lay(HOUSE_TEMPLATE) == "<s><｜User｜>Hi<｜Assistant｜>"


def test_half_a_character_goes_through_the_process_as_it_is():
    assert lay("{{ messages[0].content }}", ({"role": "user", "content": "\ud800🥝\n"},)) == "\ud800🥝\n"


def test_a_template_that_is_no_jinja_names_its_line():
    with pytest.raises(CheckpointError, match="line 2"):
        lay("a\n{% endif %}")


def test_a_conversation_needs_a_message(house):
    with pytest.raises(DataError, match="at least one user message"):
        render(house, [], answering=True)
