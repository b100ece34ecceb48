import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.errors import CheckpointError, ConfigError, DataError
from afterbase.records import Message
from afterbase.text.chat import learn_mask, render, sft_sample

END = "<｜end▁of▁sentence｜>"
TURN = "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
DONE = "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>"
DROPS = TURN + "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}" + DONE + "{% endif %}"
OPENS = TURN + "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}" + DONE + "<think>\n{% endif %}"
STRIPS = TURN + "{{ '<｜Assistant｜>' + (m.content | trim) + eos_token }}" + DONE + "{% endif %}"
REWRAPS = (
    TURN + "{% set parts = m.content.split('</think>') %}{% set answer = parts[-1].strip() %}"
    "{% set thought = parts[0].replace('<think>', '').strip() if parts | length > 1 else '' %}"
    "{{ '<｜Assistant｜>' }}{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ answer + eos_token + '\n' }}"
    + DONE
    + "{% endif %}"
)
WRAPS_AND_OPENS = REWRAPS.removesuffix("{% endif %}") + "<think>\n{% endif %}"
SKIPS = DROPS.removesuffix("{% endif %}") + "<think>\n\n</think>\n\n{% endif %}"
NO_END = TURN + "{{ '<｜Assistant｜>' + m.content + '\n' }}" + DONE + "{% endif %}"
NO_PROMPT = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else ' ' + m.content + eos_token }}{% endfor %}"
)
END_FIRST = "{% for m in messages %}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ m.content }}{% endfor %}"
SHIFTS = "{{ messages | length }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"

THINK = "<think>add</think>4"


def talk(*contents):
    """User, assistant, user, assistant, ..."""
    return [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]


def learned(tokenizer, messages, turns="all"):
    """The learned stretches of the sequence as texts, and the text of the sequence."""
    tokens, learn = learn_mask(tokenizer, messages, turns)
    stretches, last = [], False
    for token, yes in zip(tokens, learn, strict=True):
        if yes:
            stretches = [*stretches[:-1], [*stretches[-1], token]] if last else [*stretches, [token]]
        last = yes
    return [tokenizer.decode(stretch, skip_special=False) for stretch in stretches], tokenizer.decode(tokens, skip_special=False)


def test_every_answer_is_learned_with_its_end_or_only_the_last(house):
    messages = talk("2 + 2?", THINK, "Sure?", "Yes")
    assert learned(house, messages, "all")[0] == [THINK + END, "Yes" + END]
    assert learned(house, messages, "last")[0] == ["Yes" + END]
    assert learned(house, messages, "all")[1] == learned(house, messages, "last")[1]


def test_what_follows_the_last_answer_is_left_out(house):
    assert learned(house, talk("2 + 2?", "4", "Sure?")) == learned(house, talk("2 + 2?", "4"))


def test_a_dropped_thought_is_learned_when_it_is_last_and_never_where_it_is_missing(under):
    stretches, text = learned(under(DROPS), talk("2 + 2?", THINK, "Sure?", "<think>yes</think>Yes"))
    assert stretches == ["<think>yes</think>Yes" + END]
    assert text == f"<｜User｜>2 + 2?<｜Assistant｜>4{END}<｜User｜>Sure?<｜Assistant｜><think>yes</think>Yes{END}"


def test_an_earlier_answer_without_a_thought_is_learned_even_there(under):
    assert learned(under(DROPS), talk("Hi", "Hello", "2 + 2?", THINK))[0] == ["Hello" + END, THINK + END]


@pytest.mark.parametrize(
    "said", ["<think>\nadd\n</think>\n\n4", "<think>add\n</think>\n\n4", "\n<think>\nadd\n</think>\n\n4", "add\n</think>\n\n4"]
)
def test_a_thought_that_the_prompt_opens_is_not_opened_twice(under, said):
    stretches, text = learned(under(OPENS), talk("2 + 2?", said))
    assert stretches == ["add\n</think>\n\n4" + END]
    assert text == "<｜User｜>2 + 2?<｜Assistant｜><think>\nadd\n</think>\n\n4" + END


def test_a_thought_that_the_prompt_opens_is_laid_out_as_the_template_does(under):
    assert learned(under(WRAPS_AND_OPENS), talk("2 + 2?", THINK))[0] == ["add\n</think>\n\n4" + END]


def test_a_thought_that_the_prompt_leaves_empty_is_not_learned(under):
    assert learned(under(SKIPS), talk("2 + 2?", "<think>\n\n</think>\n\n4"))[0] == ["4" + END]
    assert learned(under(SKIPS), talk("2 + 2?", "4"))[0] == ["4" + END]


def test_a_thought_that_the_prompt_opens_must_be_there(under):
    with pytest.raises(DataError, match="never closes it"):
        learn_mask(under(OPENS), talk("2 + 2?", "4"), "all")
    assert learned(under(OPENS), talk("Hi", "Hello", "2 + 2?", THINK))[0] == ["add</think>4" + END]


def test_white_space_that_the_template_strips_is_not_learned(under):
    assert learned(under(STRIPS), talk("Hi", " Hello \n", "2?", " 2 "))[0] == ["Hello" + END, "2" + END]


def test_a_template_that_rewraps_thoughts_teaches_its_own_layout_and_only_the_last(under):
    stretches, text = learned(under(REWRAPS), talk("2 + 2?", THINK, "Sure?", "Yes"))
    assert stretches == ["<think>\n\n</think>\n\nYes" + END]
    assert text == f"<｜User｜>2 + 2?<｜Assistant｜>4{END}\n<｜User｜>Sure?<｜Assistant｜><think>\n\n</think>\n\nYes{END}"


def test_a_template_without_an_end_still_teaches_to_stop(under):
    assert learned(under(NO_END), talk("2?", "2", "3?", "3"))[0] == ["3\n" + END]


def test_a_template_without_a_generation_prompt_teaches_what_it_writes(under):
    assert learned(under(NO_PROMPT), talk("2?", "2", "3?", "3"))[0] == [" 2" + END, " 3" + END]


def test_a_template_whose_prompt_is_no_beginning_is_refused(under):
    with pytest.raises(DataError, match="what the model would have to write is unknown"):
        learn_mask(under(SHIFTS), talk("2?", "2"), "all")


@pytest.mark.parametrize(("template", "said"), [(END_FIRST, "4"), (STRIPS, f"4{END}5")])
def test_an_end_before_the_end_is_refused(under, template, said):
    with pytest.raises(DataError, match="where the engine would stop"):
        learn_mask(under(template), talk("2 + 2?", said), "all")


def test_an_answer_that_brings_its_own_end_is_not_ended_twice(house):
    assert learned(house, talk("2 + 2?", "4" + END))[0] == ["4" + END]


def test_no_token_crosses_the_border_between_prompt_and_answer(under):
    spaced = under("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} {% endif %}")
    crossing = under(
        "{{ messages[0].content }}{% if messages[1] %}{{ ' ' + messages[1].content }}{% elif add_generation_prompt %} {% endif %}"
    )
    tokens, learn = learn_mask(crossing, talk("the", "answer"), "all")
    assert [crossing.decode([token]) for token, yes in zip(tokens, learn, strict=True) if not yes][-1] == " "
    assert tokens[:-1] == crossing.encode("the ") + crossing.encode("answer") != crossing.encode("the answer")
    assert spaced.encode("the answer") == crossing.encode("the answer")


words = st.sampled_from(["<think>", "</think>", " ", "\n", "4", "answer", "🥝", "the "])
contents = st.lists(words, max_size=6).map("".join)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), template=st.sampled_from([None, DROPS, OPENS, STRIPS, REWRAPS, NO_END, NO_PROMPT]))
def test_whatever_is_learned_follows_the_very_prompt_of_its_turn(house, data, template):
    tokenizer = house if template is None else type(house)(house._inner, house._config, template)
    messages = talk("Hi", *data.draw(st.lists(contents, min_size=1, max_size=4)))
    try:
        tokens, learn = learn_mask(tokenizer, messages, "all")
    except DataError:
        return  # refused in words
    prompts = [render(tokenizer, messages[:i], answering=True) for i, m in enumerate(messages) if m.role == "assistant"]
    starts = [i for i, yes in enumerate(learn) if yes and (i == 0 or not learn[i - 1])]
    assert starts and all(tokens[:start] in prompts for start in starts)
    ends = [i for i, yes in enumerate(learn) if yes and (i + 1 == len(learn) or not learn[i + 1])]
    assert all(tokens[end] == tokenizer.eos_id for end in ends) and learn[-1]


def test_a_row_becomes_a_sample(house):
    row = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    sample = sft_sample(house, row, "all")
    assert sample == sft_sample(house, talk("2 + 2?", "4"), "all")
    assert sample.learn == (False,) * (len(sample.tokens) - 2) + (True, True) and sample.tokens[-1] == house.eos_id


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("hi", "messages are str"),
        ({"role": "user"}, "messages are dict"),
        ([7], "a message is '7'"),
        ([{"role": "tool", "content": "x"}], "a message is .*tool"),
        ([{"role": "user"}], "a message is .*user"),
    ],
)
def test_a_row_that_is_no_conversation_is_refused(house, row, says):
    with pytest.raises(DataError, match=says):
        sft_sample(house, row, "all")


def test_nothing_to_learn_and_unknown_turns_are_refused(house):
    with pytest.raises(DataError, match="no assistant message"):
        learn_mask(house, talk("Hi"), "all")
    with pytest.raises(DataError, match="begins with the assistant"):
        learn_mask(house, [Message("assistant", "Hi")], "all")
    with pytest.raises(ConfigError, match="'all' or 'last'"):
        learn_mask(house, talk("Hi", "Hi"), "first")


def test_a_vocabulary_that_adds_spaces_of_its_own_is_refused(under, monkeypatch):
    monkeypatch.setattr("afterbase.text.tokenizer.Tokenizer.prepends_space", True)
    with pytest.raises(CheckpointError, match="clean beginning"):
        learn_mask(under(DROPS), talk("Hi", "Hi"), "all")
