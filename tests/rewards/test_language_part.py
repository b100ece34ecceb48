import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ("angle α and βγ of 𝑥 in ℝ", {"en": 4, "el": 1}),
    ("see `unclosed code", {"en": 3}),
    ("``` never closed 完成", {"en": 2, "zh": 2}),
    ("costs $5 and $x$ 元", {"en": 2, "zh": 1}),
    ("asdf qwer zxcv hjkl uiop bnmt ghfd rewq vcxz lkjh poiu mnbv", {"und": 12}),
    ("asdf qwer zxcv hjkl", {"en": 4}),
    ("\\begin{align} a &= total \\end{align} 对", {"zh": 1}),
    ("三角形の面積を求める", {"ja": 10}),
    ("三角形的面积", {"zh": 6}),
    ("猫が好き。計算結果。", {"ja": 8}),
    ("", {}),
]
# Thoughts of a sentence or two: what the model writes, in which language it is.
THOUGHTS = [
    ("en", "Let me think step by step. We have 12 eggs, so the answer is 60."),
    ("en", "Wait, no."),
    ("en", "Total apples: 12"),
    ("en", "The café on Rue de la Paix serves crème brûlée, and we use L'Hôpital and de Moivre."),
    ("en", "Alice's car, Bob's van"),
    ("fr", "D'abord, nous devons calculer la somme des deux nombres. Ensuite, on divise par trois."),
    ("fr", "Donc la réponse est 8."),
    ("es", "Primero calculamos el precio total de las manzanas. Luego restamos el descuento."),
    ("es", "Entonces la respuesta es 42."),
    ("de", "Zuerst berechnen wir die Summe der beiden Zahlen. Dann teilen wir durch drei."),
    ("de", "Also ist die Antwort 42."),
    ("it", "Quindi la risposta è 42, perché il numero è pari."),
    ("pt", "Então a resposta é 42, porque não temos mais maçãs."),
    ("nl", "Eerst berekenen we de som van de twee getallen. Dus het antwoord is 42."),
    ("pl", "Najpierw obliczamy sumę dwóch liczb, a potem dzielimy przez trzy."),
    ("sv", "Först räknar vi ut summan av de två talen och sedan delar vi med tre."),
    ("tr", "Önce iki sayının toplamını buluruz ve sonra üçe böleriz."),
    ("vi", "Trước tiên chúng ta tính tổng của hai số, sau đó chia cho ba."),
    ("id", "Pertama kita hitung jumlah kedua bilangan itu, kemudian dibagi dengan tiga."),
    ("pinyin", "wo men xian suan yi xia zhe ge wen ti, ran hou zai kan da an"),
    ("pinyin", "shouxian jisuan zongjia ranhou jianqu zhekou"),
    ("pinyin", "wǒmen xiān jìsuàn zǒng jiàgé, ránhòu jiǎnqù zhékòu"),
    ("ru", "Сначала найдём сумму двух чисел, а затем разделим на три."),
    ("uk", "Спочатку знайдемо суму двох чисел, а потім поділимо на три."),
    ("ja", "まず、二つの数の和を計算します。次に、三で割って平均を求めます。"),
    ("zh", "首先，我们计算两个数的和。然后除以三。"),
    ("ko", "먼저 두 수의 합을 구합니다."),
]


@pytest.mark.parametrize(("text", "counts"), TEXTS)
def test_words_are_counted_by_language_and_mathematics_and_code_by_none(text, counts):
    assert dict(words(text)) == counts


@pytest.mark.parametrize(("language", "thought"), THOUGHTS)
def test_every_word_of_a_thought_in_one_language_is_in_that_language(language, thought):
    assert words(thought).keys() == {language}


@pytest.mark.parametrize(("language", "thought"), THOUGHTS)
def test_only_english_is_rewarded_where_english_is_wanted_and_only_chinese_where_chinese_is(ask, language, thought):
    for target in ("en", "zh"):
        assert ask(LanguagePart(target), f"<think>{thought}</think>4").value == float(language == target)


def test_a_foreign_sentence_in_an_english_thought_is_seen(ask):
    english = "We add the two numbers, and then we divide the sum by three. "
    counts = words(english * 3 + "Donc la réponse est égale à quatre pour nous. " + english * 3)
    assert counts == {"en": 6 * 13, "fr": 8}


def test_prose_in_a_fence_is_no_code(ask):
    text = "<think>```\n" + "首先我们计算两个数的和然后除以三得到平均数。" * 4 + "\n```</think>4"
    assert ask(LanguagePart("en"), text).value == 0.0
    assert (
        ask(
            LanguagePart("en"),
            "<think>We run:\n```python\ntotal_price = unit_price * count_of_all_items  # 总价等于单价乘以数量\n```</think>4",
        ).value
        == 1.0
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("start", ["", "```", "$"])
def test_no_text_makes_it_slow(start):
    for unit in ("$", "`", "$$a ", r"\[", r"\(x", r"\begin{a}", r"\text{", "对", "α", "nana", "<a", "a'", "\u0301", "é ", "a.", " "):
        assert sum(words(start + unit * (100_000 // len(unit))).values()) >= 0  # minutes for any rule that is quadratic


@given(st.text(st.sampled_from("aé对のα $`\\[](){}<>.\n-'") | st.characters(), max_size=80))
def test_any_text_is_counted_and_shares_add_up(text):
    counts = words(text)
    assert all(count > 0 for count in counts.values()) and 0.0 <= mixing(text) < 1.0
    assert language_of(text) in counts or not counts


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
