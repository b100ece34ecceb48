import pytest

from afterbase.rewards.language import LanguagePart, language_of, mixing, words

TEXTS = [
    ("so the answer", {"en": 3}),
    ("所以答案是四", {"zh": 6}),
    ("so 答案 is 4", {"en": 2, "zh": 2}),
    ("don't re-use it's", {"en": 3}),
    ("let x be y", {"en": 2}),
    ("设 x 为 sin 的 cm 值", {"zh": 4}),
    ("设$x$为整数", {"zh": 4}),
    (r"由 $x+y = \text{total}$ 得 \frac{a}{b} 和 \boxed{answer}", {"zh": 3}),
    (r"see \[ total = price \] and \( cost \)", {"en": 2}),
    ("```python\nfor item in range: print\n``` 完成", {"zh": 2}),
    ("use `range` 吧", {"en": 1, "zh": 1}),
    ("It costs $5 and then $6 more", {"en": 5}),
    ("123 + 456 = 579", {}),
    ("да 응 はい", {"ru": 1, "ko": 1, "ja": 2}),
    ("naïve café", {"en": 2}),
    ("答案is四", {"zh": 3, "en": 1}),
]


@pytest.mark.parametrize(("text", "counts"), TEXTS)
def test_words_are_counted_by_language_and_mathematics_and_code_by_none(text, counts):
    assert dict(words(text)) == counts


def test_the_reward_is_the_share_of_target_words_in_the_thought(ask):
    text = "<think>so 答案</think>都是中文的回答"  # one English word, two Chinese; the answer does not count
    assert ask(LanguagePart("en"), text).value == pytest.approx(1 / 3)
    assert ask(LanguagePart("zh"), text).value == pytest.approx(2 / 3)


def test_auto_is_the_language_of_the_question(ask):
    assert ask(LanguagePart("auto"), "<think>so be it</think>4", question="What is 2 + 2?").value == 1.0
    assert ask(LanguagePart("auto"), "<think>so be it</think>4", question="二加二等于多少？").value == 0.0


def test_a_thought_without_words_is_not_blamed(ask):
    assert [ask(LanguagePart("zh"), text).value for text in ("<think>2+2=4</think>4", "<think></think>4", "4", "")] == [1.0] * 4


def test_mixing_is_the_share_outside_the_main_language():
    assert mixing("the answer is 对") == 0.25 and mixing("all of it") == 0.0 and mixing("2 + 2") == 0.0


def test_a_text_without_words_counts_as_english():
    assert language_of("2 + 2 = ?") == "en" and language_of("2 加 2") == "zh"
