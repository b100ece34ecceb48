from random import Random

from hypothesis import given
from hypothesis import strategies as st

from afterbase.text.fim import prefix_suffix_middle
from afterbase.text.tokenizer import EOS, FILL_BEGIN, FILL_END, FILL_HOLE


def parts(text: str) -> tuple[str, str, str]:
    prefix, rest = text.removeprefix(FILL_BEGIN).split(FILL_HOLE)
    suffix, middle = rest.removesuffix(EOS).split(FILL_END)
    return prefix, middle, suffix


@given(st.text(alphabet="ab\n 小é<"), st.integers(0, 100))
def test_no_character_is_lost_and_the_middle_comes_last(document, seed):
    text = prefix_suffix_middle(document, Random(seed))
    assert text.startswith(FILL_BEGIN) and text.endswith(EOS)
    assert "".join(parts(text)) == document


def test_the_middle_is_never_empty_and_every_part_may_be_anywhere():
    cuts = {parts(prefix_suffix_middle("abc", Random(seed))) for seed in range(200)}
    assert cuts == {("", "a", "bc"), ("", "ab", "c"), ("", "abc", ""), ("a", "b", "c"), ("a", "bc", ""), ("ab", "c", "")}
