import asyncio

import pytest

from afterbase.rewards.extract import tidy
from afterbase.rewards.math import MathConfig
from afterbase.rewards.math_judge import decide

# What the model writes in the box | the reference.
EQUAL = r"""
42                               | 42
42.                              | 42
042                              | 42
+42                              | 42
−42                              | -42
42.0                             | 42
４２                               | 42
$42$                             | 42
**42**                           | 42
1,200                            | 1200
1{,}200                          | 1200
1,\!200                          | 1200
1 200                            | 1200
1200.50                          | 1200.5
.5                               | 0.5
$18                              | 18
\$18.00                          | 18
18 dollars                       | 18
18 eggs                          | 18
18\text{ cm}                     | 18
18颗                              | 18
18                               | 18 \text{ cm}
1/2                              | 0.5
\frac12                          | 1/2
\dfrac{1}{2}                     | 0.5
-\frac{3}{4}                     | -0.75
\frac{-3}{4}                     | -0.75
2/4                              | 1/2
3\frac{1}{2}                     | 7/2
3 1/2                            | 3.5
50%                              | 0.5
50\%                             | 1/2
2 million                        | 2000000
3万                               | 30000
2 dozen                          | 24
0.333333                         | 1/3
\frac{1}{3}                      | 0.33333333
1+1                              | 2
\sqrt{25}                        | 5
5!                               | 120
\sqrt{12}                        | 2\sqrt3
x=5                              | 5
5                                | x=5
x = 2 + 3 = 5                    | 5
\frac{10}{3} \approx 3.33        | 10/3
x = \frac{10}{3} = 3.333333      | 10/3
-q+p                             | p - q
(x+1)^2                          | x^2+2x+1
x^3/3 + C                        | \frac{x^3}{3}+C
\{2,1\}                          | 1,2
1, 2                             | \{1, 2\}
\left(3, \frac{\pi}{2}\right)    | (3,\pi/2)
[1,2)                            | \left[1,2\right)
\pm 5                            | 5,-5
y-2x=1                           | y=2x+1
\begin{bmatrix}1\\2\end{bmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\boxed{5}                        | 5
\log_2 8                         | 3
Evelyn                           | \text{Evelyn}
\text{Even}                      | even
(C)                              | \text{(C)}
C                                | \text{(C)}
52_8                             | 52_{8}
5_{10}                           | 5
6\sqrt{2}\text{ cm}^2            | 6\sqrt{2}
6\sqrt{2}                        | 6\sqrt{2} \mbox{ inches}^2
6\sqrt{2} cm                     | 6\sqrt2
5\text{ cm}^2                    | 5
50^\circ                         | 50\text{ degrees}
f \circ g                        | f\circ g
"""
DIFFERENT = r"""
2 million or so | 2000000
6\sqrt2 \text{ million} | 6\sqrt2
41                                   | 42
-42                                  | 42
4.2                                  | 42
42.0001                              | 42
420                                  | 42
1,20                                 | 120
2/0                                  | 0
1/2                                  | 2
\frac13                              | 0.33
18 million                           | 18
18\text{ million}                    | 18
18 thousand                          | 18
2 dozen                              | 2
3万                                   | 3
18 and a half                        | 18
18x                                  | 18
5ab                                  | 5
5                                    | 5ab
5t                                   | 5
5                                    | 5h
18^2                                 | 18
2 a.m.                               | 2 p.m.
5 ft                                 | 5 inches
50%                                  | 50
0.5%                                 | 0.5
0.5                                  | 50
-37_8                                | -37
10000_2                              | 10000
52_9                                 | 52_8
25_8                                 | 52_8
15^\circ                             | 15
15 degrees                           | 15
15\text{ degrees}                    | 15
\begin{pmatrix} -1 \end{pmatrix}     | -1
\begin{pmatrix} -1 & 2 \end{pmatrix} | -1
5, 6                                 | 5
5 or 6                               | 5
5 \text{ or } 6                      | 5
5 and 6                              | 5
5; 6                                 | 5
5 6                                  | 11
5\quad 6                             | 11
5 \text{ (or 6)}                     | 5
\text{5 or 6}                        | 5
\pm 5                                | 5
5 \ldots                             | 5
5...                                 | 5
6 = 5                                | 5
5 = 6                                | 5
x = 2 = 1                            | 1
6, \boxed{5}                         | 5
x=5, y=6                             | 5
x > 5                                | 5
\neq 5                               | 5
\text{not } 5                        | 5
5?                                   | 5
5-7                                  | 5
5:6                                  | 5
\{1,2\}                              | \{1,2,3\}
(2,1)                                | (1,2)
[1,2]                                | (1,2)
x^2                                  | x^2+C
2x+1                                 | 2x+2
-\infty                              | \infty
x                                    | y
\text{odd}                           | \text{even}
odd                                  | even
elspile                              | \text{ellipse}
(B)                                  | (C)
9:30                                 | 9:00
\text{Evelyn or Angela}              | Evelyn
nan                                  | 0
\text{none}                          | 0
[x for x in range(5)]                | 5
__import__('os').getpid()            | 5
"""


def rows(table: str) -> list[tuple[str, str]]:
    return [tuple(side.strip() for side in line.split(" | ")) for line in table.strip().splitlines()]


@pytest.fixture(scope="module")
def part():
    part = MathConfig(workers=1, seconds=5).build()
    yield part
    asyncio.run(part.close())


@pytest.mark.parametrize(("answer", "gold"), rows(EQUAL))
def test_another_way_to_write_the_reference_is_correct(part, ask, answer, gold):
    score = ask(part, f"<think>Hm, 6?</think>So it is \\boxed{{{answer}}}.", answer=gold)
    assert (score.outcome, score.value, score.parts) == ("correct", 1.0, {"accuracy": 1.0}), score.note


@pytest.mark.parametrize(("answer", "gold"), [*rows(DIFFERENT), ("5\n6", "5"), ("x" * 2000, "5"), ("5" * 2000, "5")])
def test_anything_else_is_wrong(part, ask, answer, gold):
    score = ask(part, f"<think>Hm, {gold}?</think>So it is \\boxed{{{answer}}}.", answer=gold)
    assert (score.outcome, score.value) == ("wrong", 0.0), score.note


CLAIMS = [
    (r"\boxed{4}", "none", "correct"),
    (r"<think>\boxed{5}</think>\boxed{4}", "none", "correct"),
    (r"<think>\boxed{4}</think>I do not know.", "none", "no_answer"),
    (r"<think>so \boxed{4}, wait", "last_number", "no_answer"),
    (r"\boxed{5}, no: \boxed{4}", "none", "correct"),
    (r"\boxed{4}, no: \boxed{5}", "none", "wrong"),
    (r"<think>x</think> <answer> 4 </answer>", "none", "correct"),
    (r"<think>x</think> <answer> it is \boxed{4} </answer>", "none", "correct"),
    (r"<think><answer>4</answer></think> Done.", "none", "no_answer"),
    (r"\boxed{}", "none", "no_answer"),
    ("", "last_line", "no_answer"),
    ("The answer is 4.", "none", "no_answer"),
    ("3 and 1 make 4.", "last_number", "correct"),
    ("4 is 3 and 1", "last_number", "wrong"),
    ("Let us see.\n#### 4", "last_line", "correct"),
    ("Let us see.\nThe final answer is: $4$.\n", "last_line", "correct"),
    ("no number", "last_number", "no_answer"),
]


INSTRUCTION = "Solve it. Please reason step by step, and put your final answer within \\boxed{4}."
SEVERAL = [  # text, reference, outcome
    (r"\boxed{1} and \boxed{2}", "1, 2", "correct"),
    (r"\boxed{1} and \boxed{2}", "2", "wrong"),
    (r"\boxed{2} or \boxed{1}", r"x=1 \text{ or } x=2", "correct"),
    (r"$x=\boxed{1}$ and $y=\boxed{2}$", "(1,2)", "correct"),
    (r"$y=\boxed{1}$ and $x=\boxed{2}$", "(1,2)", "wrong"),
    (r"(a) It is \boxed{1}. (b) Hence it must be \boxed{2}.", "1, 2", "correct"),
    (r"(a) It is \boxed{1}. (b) Hence it must be \boxed{2}.", "2", "correct"),
    (r"\boxed{1}, no: \boxed{2}, no: \boxed{3}", "1, 3", "wrong"),
    (r"\boxed{2} and again \boxed{2}", "2", "correct"),
    (r"I shall write \boxed{your answer}.", "2", "no_answer"),
    (r"It is \boxed{2}. That is what \boxed{} was for.", "2", "correct"),
    (r"\boxed{\text{final answer}}", "2", "no_answer"),
    (r"\boxed{...}", "2", "no_answer"),
    (r"<answer>The final answer is $2$.</answer>", "2", "correct"),
    ("<answer>your answer</answer>", "2", "no_answer"),
    ("<answer>She sells 2 of them</answer>", "2", "wrong"),
]


@pytest.mark.parametrize(("text", "gold", "outcome"), SEVERAL)
def test_boxes_side_by_side_are_one_answer_and_a_placeholder_is_none(ask, text, gold, outcome):
    assert ask(MathConfig().build(), text, answer=gold).outcome == outcome


def test_a_box_quoted_from_the_prompt_is_no_answer(ask):
    part = MathConfig().build()
    assert (
        ask(part, "Please reason step by step, and put your final answer within \\boxed{4}.", question=INSTRUCTION).outcome == "no_answer"
    )
    assert ask(part, "So it is \\boxed{4}.", question=INSTRUCTION).outcome == "correct"


ALGEBRA = [  # answer, reference, outcome: what needs a process
    (r"\sum_{i=1}^{10} i", "55", "correct"),
    (r"\int_0^1 x\,dx", r"\frac12", "correct"),
    (r"\lim_{x \to 0} \frac{\sin x}{x}", "1", "correct"),
    (r"\sum_{i=1}^{10} i", "54", "wrong"),
    (r"\frac{5000!}{4999!}", "5000", "correct"),
    (r"\{\sum_{i=1}^{10} i, 1\}", r"\{1, 55\}", "correct"),
]


@pytest.mark.parametrize(("answer", "gold", "outcome"), ALGEBRA)
def test_what_is_beyond_plain_arithmetic_goes_to_computer_algebra(part, ask, answer, gold, outcome):
    assert ask(part, f"\\boxed{{{answer}}}", answer=gold).outcome == outcome


COPIED = [  # question, answer, reference
    (r"Evaluate \int_0^1 x \, dx to one decimal, 0.5 being half.", r"\int_0^1 x\,dx", "0.5"),
    (r"Find \sum_{i=1}^\infty \frac{1}{2^i}.", r"\sum_{i=1}^{\infty}\frac{1}{2^{i}}", "1"),
]


@pytest.mark.parametrize(("question", "answer", "gold"), COPIED)
def test_an_integral_or_a_sum_copied_from_the_question_is_not_worked_out(part, ask, question, answer, gold):
    assert ask(part, f"\\boxed{{{answer}}}", answer=gold, question=question).outcome == "wrong"
    assert ask(part, f"\\boxed{{{answer}}}", answer=gold).outcome == "correct"


@pytest.mark.parametrize(("text", "fallback", "outcome"), CLAIMS)
def test_only_what_is_claimed_outside_the_thought_counts(ask, text, fallback, outcome):
    assert ask(MathConfig(fallback=fallback).build(), text, answer="4").outcome == outcome


def test_a_sign_that_the_question_asks_for_may_be_written_or_left_out():
    asked = {
        "What percent is it?": ("50%", "50"),
        "Give the angle in degrees.": (r"50^\circ", "50"),
        "Express it in base 8.": ("50", "50_8"),
    }
    for question, (answer, gold) in asked.items():
        decided = decide(tidy(gold), tidy(answer), question)
        assert decided.outcome == "correct"
        assert decide(tidy(gold), tidy(answer), "What is it?").outcome == "wrong"


def test_plain_numbers_start_no_process(ask):
    part = MathConfig().build()
    for i in range(300):
        assert ask(part, f"\\boxed{{{i}}}", answer="7").outcome == ("correct" if i == 7 else "wrong")
    assert part.pool._threads is None


def test_an_endless_answer_reaches_no_process(ask):
    part = MathConfig().build()
    assert ask(part, r"\boxed{" + "x+" * 600 + "x}", answer="x+1").outcome == "wrong" and part.pool._threads is None


def test_a_prompt_without_reference_is_an_error_and_no_wrong_answer(ask):
    assert ask(MathConfig().build(), r"\boxed{4}", answer=None).outcome == "error"
