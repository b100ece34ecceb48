"""The process in which answers are compared: reads questions from its input, writes verdicts, and dies when one takes too long.

It is a script and no part of the package: it must start without torch, and it may be killed at any moment. Each line of its input is
a JSON object; the first is {"path": [...], "memory_mb": n}, every other {"seconds": s} and the arguments of `math_judge.judge`. Math-Verify
is imported when an answer first needs it: sympy takes a second, and most answers never do.
"""

import json
import os
import resource
import signal
import sys

RELATIVE_ROUNDING = 0.01  # "10/3 = 3.33" is rounded, "6 = 5" is false
KEPT_REFERENCES = 512  # a group's answers come one after the other, each against the same reference


def main() -> None:
    """Answer one question a line until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not garble the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    setup = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_mb"] * 2**20,) * 2)
    sys.path[:] = setup["path"]
    os.environ["SYMPY_GROUND_TYPES"] = "python"  # gmpy2 aborts the process when memory runs out, Python raises MemoryError
    algebra = Algebra(replies)
    try:
        import afterbase.rewards.math_judge  # noqa: F401  (imported here, so that starting is not counted as checking)
    except Exception as error:
        _send(replies, {"failed": f"the verifier does not import: {error!r}"})
        return
    _send(replies, {"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        # Processor time, not wall time: a busy machine must not turn a good answer into a timeout. The signal's default kills us.
        signal.setitimer(signal.ITIMER_PROF, question.pop("seconds"))
        reply = answer_to(question, algebra)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, reply)


def answer_to(question: dict, algebra: "Algebra") -> dict:
    """The verdict as a reply; "algebra" says how often Math-Verify was asked for it."""
    from afterbase.rewards.math_judge import judge

    before = algebra.asked
    try:
        if question.pop("algebra_only", False):
            verdict = algebra(question["gold"], question["answer"])
        else:
            verdict = judge(algebra=algebra, **question)
        reply = {"outcome": verdict.outcome, "note": verdict.note}
    except DoesNotImport as error:
        return {"failed": f"math_verify does not import: {error}"}
    except (MemoryError, RecursionError) as error:
        reply = {"outcome": "timeout", "note": f"too large to check ({type(error).__name__})"}
    except Exception as error:  # ours, and no reason to stop
        reply = {"outcome": "error", "note": f"the verifier failed: {error!r}"[:300]}
    return reply | {"algebra": algebra.asked - before}


class DoesNotImport(Exception):
    """Math-Verify is not there, or broken."""


class Algebra:
    """Math-Verify, imported at the first question."""

    def __init__(self, replies):
        self.replies, self.references, self.loaded, self.asked = replies, {}, False, 0

    def __call__(self, gold: str, answer: str):
        """Whether the answer equals the reference, as a verdict."""
        from afterbase.rewards.verdict import Verdict

        if not self.loaded:
            self._load()
        self.asked += 1
        return Verdict(*check(gold, answer, self.references))

    def _load(self) -> None:
        """Import it with the clock stopped; the parent, which is told, waits longer."""
        left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
        _send(self.replies, {"loading": True})
        try:
            import math_verify  # noqa: F401
        except Exception as error:
            raise DoesNotImport(repr(error)) from error
        _send(self.replies, {"loaded": True})
        self.loaded = True
        signal.setitimer(signal.ITIMER_PROF, max(left, 0.001))


def check(gold: str, answer: str, references: dict) -> tuple[str, str]:
    """Whether the answer equals the reference, as (outcome, note); `references` keeps the references that were read before."""
    try:
        if gold not in references:
            if len(references) >= KEPT_REFERENCES:
                references.clear()
            references[gold] = parse(gold)
        wanted, came = references[gold], parse(answer)
        if wanted is None or came is None:
            return "wrong", "Math-Verify cannot read the " + ("reference" if wanted is None else "answer")
        if claims_something_false(came):
            return "wrong", "contains a false equation"
        return ("correct", "equal") if equal(wanted, came) else ("wrong", "not equal")
    except (MemoryError, RecursionError) as error:
        return "timeout", f"too large to check ({type(error).__name__})"
    except Exception as error:
        return "wrong", f"cannot be compared ({type(error).__name__})"


def parse(text: str):
    """The mathematical object that LaTeX describes; None when it is none.

    Only the LaTeX reader: the reader for plain expressions ends in Python's `eval`, which never sees a model's output here.
    """
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig
    from math_verify import parse as read

    # units=False: Math-Verify's list of units has "t", "h" and "ab" in it, and would read 5t as 5. The caller takes units away.
    tidying = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False)
    config = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=tidying)]
    content = text.replace(r"\$", "").replace("$", "")  # else a dollar inside the box becomes a formula of its own
    found = read(f"\\boxed{{{content}}}", config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)
    return found[0] if found else None


def equal(wanted, came) -> bool:
    """Math-Verify's comparison, without its alarm signals: this process is killed instead."""
    from math_verify import verify

    return verify(wanted, came, timeout_seconds=None)


def claims_something_false(came) -> bool:
    """Whether an equation between two numbers in it does not hold: "6 = 5" must not pass for 5 by its right side."""
    from sympy import Basic, Eq

    if not isinstance(came, Basic):
        return False
    numeric = [equation for equation in came.atoms(Eq) if equation.lhs.is_number and equation.rhs.is_number]
    return any(abs(eq.lhs - eq.rhs).evalf() > RELATIVE_ROUNDING * max(abs(eq.lhs).evalf(), abs(eq.rhs).evalf()) for eq in numeric)


def _send(replies, reply: dict) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
