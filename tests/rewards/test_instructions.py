import asyncio
import json
from pathlib import Path

import pytest

from afterbase.errors import DataError
from afterbase.records import Completion, Message, Prompt, Rollout, Score
from afterbase.rewards.instructions import Instruction, InstructionsConfig, instructions
from afterbase.rewards.instructions_rules import RULES

IFEVAL = Path(__file__).parents[3] / "shared" / "data" / "eval" / "ifeval_input_data.jsonl"
ROWS = [json.loads(line) for line in IFEVAL.read_text(encoding="utf-8").splitlines()] if IFEVAL.exists() else []
GREETINGS = {
    "ar": "هذا هو الجواب الذي كان في الكتاب.",
    "bg": "Това е отговорът, който също така се намира в книгата.",
    "bn": "এটাই বইয়ের উত্তর।",
    "de": "Das ist die Antwort, die in dem Buch steht.",
    "fa": "این پاسخی است که در کتاب برای شما آمده است.",
    "fi": "Tämä on vastaus, joka on myös kirjassa.",
    "gu": "આ પુસ્તકમાંનો જવાબ છે.",
    "hi": "यह वह उत्तर है जो किताब में है।",
    "it": "Questa è la risposta che si trova anche nel libro.",
    "kn": "ಇದು ಪುಸ್ತಕದಲ್ಲಿರುವ ಉತ್ತರ.",
    "ko": "이것이 책에 있는 답입니다.",
    "mr": "हे ते उत्तर आहे जे पुस्तकात आहे, आणि ते बरोबर आहे.",
    "ne": "यो त्यो उत्तर हो जुन किताबमा छ, र यो सही छ।",
    "pa": "ਇਹ ਕਿਤਾਬ ਵਿੱਚ ਜਵਾਬ ਹੈ।",
    "pt": "Esta é a resposta que também está no livro.",
    "ru": "Это ответ, который также есть в этой книге.",
    "sw": "Hii ni jibu ambalo pia lipo katika kitabu hicho kwa sasa.",
    "ta": "இது புத்தகத்தில் உள்ள பதில்.",
    "te": "ఇది పుస్తకంలోని సమాధానం.",
    "th": "นี่คือคำตอบในหนังสือ",
    "ur": "یہ وہ جواب ہے جو اس کتاب میں بھی ہے۔",
    "vi": "Đây là câu trả lời cũng có ở trong quyển sách này.",
}
# For each kind: arguments, responses that follow it, responses that do not.
CASES = {
    "keywords:existence": ({"keywords": ["mom", "a.b"]}, ["My MOM has a.b", "A moment, A.B."], ["My mom has aXb", "a.b", "m o m a.b"]),
    "keywords:frequency": ({"keyword": "war", "frequency": 2, "relation": "at least"}, ["War and warm", "warwar"], ["war", "w ar war"]),
    "keywords:forbidden_words": ({"forbidden_words": ["rock", "(a"]}, ["rocks and rocket", "a"], ["Rock!", "a rock-hard bed"]),
    "keywords:letter_frequency": ({"letter": "Q", "let_frequency": 2, "let_relation": "less than"}, ["q", "none"], ["qQ", "quite quick"]),
    "language:response_language": ({"language": "de"}, [GREETINGS["de"], "42"], [GREETINGS["it"], "This is it.", GREETINGS["ru"]]),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two.", "Why? Because!", "Wait... The end.", "Dr. Who left. He ran.", "1. A list"],
        ["One.", '"Go."', "Wait... what", "Mr. Smith and Dr. Who of 3.5 miles", "no end", "visit a.com now"],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a\n\nb", "a***b***c", "a******b"],
    ),
    "length_constraints:number_words": (
        {"num_words": 3, "relation": "less than"},
        ["two words", "one", "don't"],
        ["it is three", "well-known fact"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Week"},
        ["One\n\nweek two", "One\n\nWEEK, two", "One\n\n'week' two", "One\n\nweek's end"],
        ["One\n\nweekend", "week\n\none", "one\n\ntwo\n\nweek", "week", "One\nweek"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[a] [b]", "[a][]"], ["[a]", "[a\n] [b]", "[[a]", "a] [b"]),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, ["Hi\nP.P.S. bye", "p. p.s. bye"], ["P.S. bye", "PPS bye"]),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "* a\n**bold**\n- b"],
        ["* a", "* a\n* b\n* c", "** a\n* b", "a * b\n* c"],
    ),
    "detectable_format:constrained_response": ({}, ["My answer is yes.", "Well. My answer is maybe. So."], ["Yes.", "my answer is yes."]),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and *b*"],
        ["*a*", "* * and *b*", "*a\nb* *c*", "****"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2"],
        ["SECTION 1", "Section 1 Section 2", "SECTION A SECTION B"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n[]\n```", "3"],
        ["{a: 1}", 'Here: {"a": 1}', "```json\n```", "[" * 100_000, "1" * 10_000],
    ),
    "detectable_format:title": ({}, ["<<Ode>> to", "x <<<a>>"], ["<<>>", "<< >>", "<<a\nb>>", "<a>"]),
    "combination:two_responses": ({}, ["a\n******\nb", "******a******b"], ["a", "a******a", "a******b******c", "a************b"]),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it. "}, ["say it. It.", "\n Say it.ok"], ["It. Say it.", "Say  it."]),
    "startend:end_checker": ({"end_phrase": "The end."}, ["It is THE END.", '"The end."\n'], ["The end. Bye", "The end"]),
    "startend:quotation": ({}, ['"a"', ' "a "b" c"\n'], ['"', '"a" b', "'a'", "“a”"]),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["I SAW it", "the NASA-ESA and a DVD", "DON'T go", "I'm sure I can"],
        ["I saw", "Nasa ESa X", "3 4", "NASA-ESA"],
    ),
    "change_case:english_capital": ({}, ["THIS IS THE END.", "I AM 5"], ["THIS is", "DAS IST DIE ANTWORT UND DER GRUND", "Это", "42"]),
    "change_case:english_lowercase": ({}, ["this is the end.", "i am 5"], ["This is", "das ist die antwort und der grund", "42"]),
    "punctuation:no_comma": ({}, ["a; b", "a， b"], ["a, b", ","]),
}


def judged(text: str, value: str = "all", reading: str = "strict", **extra) -> Score:
    prompt = Prompt("p-1", (Message("user", "?"),), "general", None, extra)
    part = InstructionsConfig(value=value, reading=reading).build()
    return asyncio.run(part(Rollout(prompt, (), Completion((), (), (), 0, "stop"), text)))


def test_there_are_25_kinds_and_each_has_its_cases():
    assert len(RULES) == 25 and RULES.keys() == CASES.keys()


@pytest.mark.parametrize("kind", RULES)
def test_a_response_follows_an_instruction_or_it_does_not(kind):
    arguments, following, failing = CASES[kind]
    instruction = Instruction(kind, arguments)
    assert [text for text in following if not instruction.followed(text)] == []
    assert [text for text in [*failing, "", " \n"] if instruction.followed(text)] == []


@pytest.mark.parametrize("kind", RULES)
def test_loose_follows_whatever_strict_follows_and_forgives_a_line_at_either_end(kind):
    arguments, following, _ = CASES[kind]
    instruction = Instruction(kind, arguments)
    assert all(instruction.followed(text, "loose") for text in following)
    about_all = kind not in ("keywords:forbidden_words", "detectable_format:json_format", "detectable_format:number_bullet_lists")
    assert about_all or instruction.followed(f"Sure, a rock:\n{following[0]}\n- Bye, rock", "loose")
    assert not instruction.followed("", "loose") and not instruction.followed("\n\n", "loose")


def test_loose_takes_stars_away():
    ends = Instruction("startend:end_checker", {"end_phrase": "The end."})
    assert ends.followed("**The end.**", "loose") and not ends.followed("**The end.**")


@pytest.mark.parametrize("language", GREETINGS)
def test_every_language_that_is_asked_for_is_told_from_all_others(language):
    following = [
        other for other in GREETINGS if Instruction("language:response_language", {"language": other}).followed(GREETINGS[language])
    ]
    assert following == [language]


def test_the_value_is_all_or_the_share_and_correct_means_all():
    asked = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {"num_words": None}]}
    both, one = judged('<think>a, b</think>"a"', **asked), judged("<think>x</think>a", **asked)
    assert (both.value, both.outcome) == (1.0, "correct")
    assert (one.value, one.outcome) == (0.0, "wrong") and "startend:quotation" in one.note and "no_comma" not in one.note
    assert judged("a", "fraction", **asked).value == 0.5 and judged("a", "fraction", **asked).outcome == "wrong"
    assert judged('Sure:\n"a"', reading="loose", **asked).outcome == "correct"


def test_only_the_answer_is_looked_at():
    asked = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert judged("<think>a, b</think>ab", **asked).outcome == "correct"
    assert judged("<think>a b</think>a, b", **asked).outcome == "wrong"
    assert judged("<think>ab", **asked).outcome == "no_answer" and judged("", **asked).outcome == "no_answer"


@pytest.mark.parametrize(
    ("kinds", "arguments", "complaint"),
    [
        (None, None, "instruction_id_list is no list"),
        (["punctuation:no_comma"], [], "1 and 0 entries"),
        ([], [], "0 and 0 entries"),
        (["punctuation:no_dots"], [{}], "none of the 25 kinds"),
        (["punctuation:no_comma"], ["x"], "kwargs is no list of tables"),
        (["punctuation:no_comma"], [{"n": 1}], r"takes the arguments \[\], the row gives \['n'\]"),
        (["keywords:existence"], [{}], r"takes the arguments \['keywords'\]"),
        (["keywords:existence"], [{"keywords": "war"}], "a list of texts"),
        (["keywords:existence"], [{"keywords": []}], "a list of texts"),
        (["keywords:letter_frequency"], [{"letter": "ab", "let_frequency": 1, "let_relation": "at least"}], "one letter"),
        (["keywords:frequency"], [{"keyword": "a", "frequency": -1, "relation": "at least"}], "a whole number from 0"),
        (["keywords:frequency"], [{"keyword": "a", "frequency": 1, "relation": "about"}], "one of at least, less than"),
        (["language:response_language"], [{"language": "xx"}], "one of en, zh"),
        (["startend:end_checker"], [{"end_phrase": " "}], "a text that is not empty"),
    ],
)
def test_a_row_that_is_not_understood_is_an_error_in_words(kinds, arguments, complaint):
    extra = {"instruction_id_list": kinds, "kwargs": arguments}
    with pytest.raises(DataError, match=complaint):
        instructions(Prompt("p", (), extra=extra))
    assert judged("a", **extra).outcome == "error"


def test_columns_may_be_json_and_numbers_may_be_floats():
    extra = {"instruction_id_list": '["detectable_format:number_bullet_lists"]', "kwargs": '[{"num_bullets": 2.0, "keyword": null}]'}
    assert instructions(Prompt("p", (), extra=extra)) == [Instruction("detectable_format:number_bullet_lists", {"num_bullets": 2})]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", RULES)
def test_no_response_makes_a_check_slow(kind):
    arguments, *_ = CASES[kind]
    for unit in (
        "[",
        "<<",
        "*",
        "** ",
        "\n",
        " ",
        "\n\n",
        "a. ",
        ".",
        "p.",
        "A'",
        "- \n",
        "***",
        '"',
        "(a+)+",
        "SECTION ",
        "\\",
        "\u0315",
        "I I",
    ):
        assert Instruction(kind, arguments).followed(unit * (300_000 // len(unit)), "loose") in (True, False)


# ---- every row of the benchmark


def obeying(kind: str, given: dict) -> str:
    """A response that follows one instruction of the benchmark, whatever its numbers."""
    at_least = given.get("relation", given.get("let_relation", given.get("capital_relation"))) == "at least"
    builders = {
        "keywords:existence": lambda keywords: " and ".join(keywords),
        "keywords:frequency": lambda keyword, frequency, relation: f"{keyword} " * (frequency if at_least else frequency - 1) + "end",
        "keywords:forbidden_words": lambda forbidden_words: " ".join(f"x{word}x" for word in forbidden_words),
        "keywords:letter_frequency": lambda letter, let_frequency, let_relation: letter * (let_frequency - (not at_least)) + "·",
        "language:response_language": lambda language: GREETINGS[language],
        "length_constraints:number_sentences": lambda num_sentences, relation: "Go on. " * (num_sentences - (not at_least)),
        "length_constraints:number_paragraphs": lambda num_paragraphs: "\n***\n".join(["text"] * num_paragraphs),
        "length_constraints:number_words": lambda num_words, relation: "word " * (num_words - (not at_least)),
        "length_constraints:nth_paragraph_first_word": lambda num_paragraphs, nth_paragraph, first_word: "\n\n".join(
            f"{first_word if i == nth_paragraph else 'other'} words." for i in range(1, num_paragraphs + 1)
        ),
        "detectable_content:number_placeholders": lambda num_placeholders: "[name] " * num_placeholders,
        "detectable_content:postscript": lambda postscript_marker: f"Text.\n\n{postscript_marker} More.",
        "detectable_format:number_bullet_lists": lambda num_bullets: "Points:\n" + "* point\n" * num_bullets,
        "detectable_format:constrained_response": lambda: "My answer is no.",
        "detectable_format:number_highlighted_sections": lambda num_highlights: "*part* of\n" * num_highlights,
        "detectable_format:multiple_sections": lambda section_spliter, num_sections: "".join(
            f"{section_spliter} {i}\ntext\n" for i in range(1, num_sections + 1)
        ),
        "detectable_format:json_format": lambda: '```json\n{"answer": "text"}\n```',
        "detectable_format:title": lambda: "<<poem of joy>>\ntext",
        "combination:two_responses": lambda: "one\n******\ntwo",
        "combination:repeat_prompt": lambda prompt_to_repeat: f"{prompt_to_repeat}\n\nAnd the answer.",
        "startend:end_checker": lambda end_phrase: f"Text. {end_phrase}",
        "startend:quotation": lambda: '"text"',
        "change_case:capital_word_frequency": lambda capital_frequency, capital_relation: (
            "WORD " * (capital_frequency - (not at_least)) + "end"
        ),
        "change_case:english_capital": lambda: "THIS IS ALL THAT THERE IS.",
        "change_case:english_lowercase": lambda: "this is all that there is.",
        "punctuation:no_comma": lambda: "no such mark here",
    }
    return builders[kind](**given)


def disobeying(kind: str, given: dict) -> str:
    """A response one short of following it, or one too much."""
    changed = dict(given)
    for name in ("relation", "let_relation", "capital_relation"):
        if name in changed:  # just what the opposite relation asks for
            changed[name] = "less than" if changed[name] == "at least" else "at least"
            return obeying(kind, changed)
    for name in ("num_paragraphs", "num_placeholders", "num_bullets", "num_highlights", "num_sections"):
        if name in changed:
            changed[name] -= 1
            return obeying(kind, changed) if changed[name] else "text"
    if kind == "language:response_language":
        return "This is the answer that you have asked for."
    others = {
        "keywords:existence": "none of them",
        "keywords:forbidden_words": f"a {given.get('forbidden_words', [''])[-1]}.",
        "punctuation:no_comma": "a, b",
    }
    return others.get(kind, "Nothing of the kind")


@pytest.mark.skipif(not ROWS, reason="the IFEval rows are not beside the checkout (shared/data/eval/ifeval_input_data.jsonl)")
def test_all_541_rows_are_understood_and_each_instruction_can_be_followed_and_failed():
    asked = [one for row in ROWS for one in instructions(Prompt(str(row["key"]), (), extra=row))]
    assert len(ROWS) == 541 and len(asked) == 834 and {one.kind for one in asked} == RULES.keys()
    assert [one for one in asked if not one.followed(obeying(one.kind, dict(one.arguments)))] == []
    assert [one for one in asked if one.followed(disobeying(one.kind, dict(one.arguments)))] == []
