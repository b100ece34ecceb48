"""No text of a model makes extraction or the typed parse slow: what they cost grows with the text, not with the ways to read it."""

import asyncio
import random
import subprocess
import sys

import pytest

from afterbase.rewards.math import MAX_ANSWER
from afterbase.rewards.pool import Pool

WORDS = "the answer is final so we get Thankme solves here points apples each per of square cubic degrees where n integer or and not"
UNITS = "cm m kg km/h dollars hours 米 厘米 平方厘米 元 分 小时 每小时 % ^\\circ $ \\$ € £ rad"
SIGNS = "+ - * / = < > \\le \\ge \\ne ^ _ ! : , ; . .. ... | & ( ) [ ] { } \\{ \\} \\pm \\cup \\in \\cdot \\\\ \\ldots ' ~ \\, ? `"
COMMANDS = r"\frac{1}{2} \frac12 \sqrt \frac \text{ \text{cm} \text{or} \boxed{ \pi \infty \angle \mathrm{i} \log"
NUMBERS = "0 1 7 10 3.14 1,234 000 0.333 12345678 ½ ² 三 十 百 万 二十 分之 又 点 负 2x x e i A B (A) AB 答案 这个数 是 约 或 ℝ ﷽ \ufffd"
FRAGMENTS = [group.split() for group in (WORDS, UNITS, SIGNS, COMMANDS, NUMBERS)] + [[" ", "  ", "\n"]]
GOLDS = [
    "5",
    "1, 2",
    "(1,2)",
    "[1,2)",
    "x^2+C",
    "B",
    r"\text{even}",
    "3:30 PM",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    "5 cm",
    "x>3",
    "52_8",
]
QUESTION = "A box is 5 cm long. Which is it? (A) 1 (B) 2"
FOUND = "- 3 = Thankme solves answer to the final answer to the final answer. s thinks in the answer here\ufffd\ufffd7"


def answer(rng: random.Random) -> str:
    """A few fragments over and over, or many of them mixed, up to the longest answer that is read at all; often cut off or spoiled."""
    few = [rng.choice(rng.choice(FRAGMENTS)) for _ in range(rng.randrange(1, 5))]
    pool = few if rng.random() < 0.7 else [piece for group in FRAGMENTS for piece in group]
    between, length, text = rng.choice(["", " "]), rng.choice([30, 300, MAX_ANSWER]), rng.choice(["", "5", "3 =", "x =", "(", "A"])
    while len(text) < length:
        text += rng.choice(pool) + between
    return text[: length - 1] + rng.choice(["!", "\ufffd", "x", "7", "}", " "])


def outcomes(answers: list[str], seconds: float) -> dict[str, list[str]]:
    """Which answers ended how."""

    async def scenario() -> dict[str, list[str]]:
        pool, rng, found = Pool(workers=1, seconds=seconds, memory_mb=1024), random.Random(0), {}
        for text in answers:
            verdict = await pool.check(rng.choice(GOLDS), text, question=QUESTION)
            found.setdefault(verdict.outcome, []).append(text)
        await pool.close()
        return found

    return asyncio.run(scenario())


def test_no_soup_of_fragments_takes_half_a_second():
    rng = random.Random(20)
    found = outcomes([answer(rng) for _ in range(700)], seconds=0.5)
    assert set(found) <= {"correct", "wrong"}, {
        outcome: texts[:3] for outcome, texts in found.items() if outcome not in ("correct", "wrong")
    }


REPEATED = {
    "5{}!": ["a", " ", "$", "cm ", "\\text{cm}", "(", "\\cdot ", "米", "^", "."],
    "A{}!": [", ", " ,", " and ", "( , ", "和"],
    "{}!": ["数", "分之", "亿", "1", "1.", "1,", "12 ", "(1,", "P(", "a,", "\\{", "[", "]", "x_", "[1,", "=", "x=", "-", "{\\choose "],
    "0.{}\\ldots": ["3", "12", "123"],
}


@pytest.mark.parametrize("frame", REPEATED)
def test_no_repetition_that_ends_badly_takes_half_a_second(frame):
    texts = [frame.replace("{}", piece * ((MAX_ANSWER - 12) // len(piece))) for piece in REPEATED[frame]]
    found = outcomes(texts, seconds=0.5)
    assert set(found) <= {"correct", "wrong"}, {outcome: [text[:20] for text in some] for outcome, some in found.items()}


def test_the_answer_that_once_hung_a_run_is_simply_wrong():
    assert set(outcomes([FOUND], seconds=0.2)) == {"wrong"}


EXTRACT = r"""
import resource, sys
from afterbase.rewards.extract import all_boxes, final_answer
resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
pieces = ["{", "}", "<", "\\", "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\boxed{}", "\\boxed{1}", "\\boxed",
          "\\boxed ", "\\boxed{1} and ", "\\fbox{your answer}", "\n", " ", "`", "```", "`a", "$", "answer ", "the ",
          "1", "1,", "1/", ".", "-", "*", "#", "\\["]
count = 0
for piece in pieces:
    middle = piece * (SIZE // len(piece))
    frames = "|", "\\boxed{|", "</think>|\\boxed{5}", "<answer>|", "\\boxed{5}|\\boxed{6}"
    for text in [frame.replace("|", middle) for frame in frames]:
        for fallback in ("none", "last_number", "last_line", "whole"):
            final_answer(text, fallback, "Put it in \\boxed{}.")
        all_boxes(text, "Put it in \\boxed{}.")
        count += 1
print(count)
"""


def test_extraction_reads_long_hostile_responses_within_a_processor_limit():
    program = EXTRACT.replace("SECONDS", "20").replace("SIZE", "40_000")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(31 * 5)), done.stderr[-500:]


def test_the_process_that_compares_starts_light():
    heavy = {"torch", "pydantic", "sympy", "math_verify", "transformers"}
    program = "import sys, afterbase.rewards.math_judge; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
