"""Programs put to the test in a sandbox: compiled once, then run on inputs, called, asserted on, or joined with what follows them."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from afterbase.rewards.code_compare import output_fault, same_value, shorten
from afterbase.rewards.code_follow import join, passed
from afterbase.rewards.code_talk import Answer, Program, relay
from afterbase.rewards.code_tests import Asserting, Call, Calling, Case, Following, Printing, Tests
from afterbase.rewards.code_trial import Result, Trial
from afterbase.sandbox.base import Execution, Job, Limits, Sandbox
from afterbase.sandbox.languages import Language, Tools

_NAMED = re.compile(r"\s*(?:Exception in thread|(?:\[ERROR\].*: )?[\w.]*(?:Error|Exception)\b|(?:PHP )?Fatal error)")
_TRACE = re.compile(r"\s+|at |Node\.js|\[ERROR\]|\}")


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how programs are tested."""

    sandbox: Sandbox
    """Runs them; two jobs at a time for each program."""
    tools: Tools
    """The compilers and interpreters."""
    limits: Limits
    """What one test may use."""
    compile_limits: Limits
    """What one compilation may use."""
    total_seconds: float = 60.0
    """Wall time of all tests of one program together."""
    tolerance: float = 1e-6
    """Of floating-point numbers."""
    stop_early: bool = True
    """Whether the first test that fails is the last that is run."""

    async def test(self, language: Language, program: str, tests: Tests) -> Trial:
        """Put a program to its tests."""
        if isinstance(tests, Printing):
            return await self._print(language, program, tests)
        if isinstance(tests, Following):
            return await self._follow(language, program, tests)
        return await (self._call(program, tests) if isinstance(tests, Calling) else self._assert(program, tests))

    async def _print(self, language: Language, program: str, tests: Printing) -> Trial:
        series = _Series(self, len(tests.cases))
        built = await self._build(language, program)
        if built.fault:
            series.add(built.fault)
            return series.trial(built.diagnostics)
        for case in tests.cases:
            if series.over:
                break
            room = max(built.limits.output_bytes, 2 * len(_bytes(case.stdout)))
            done = await self.sandbox.run(built.job(case.stdin), replace(built.limits, output_bytes=room))
            series.add(_printed(case, done, self.tolerance))
        return series.trial(built.diagnostics)

    async def _follow(self, language: Language, program: str, tests: Following) -> Trial:
        word = secrets.token_hex(16)  # a secret, not a draw: no result depends on which it is
        series = _Series(self, 1)
        built = await self._build(language, join(language.name, program, tests, word))
        if built.fault:
            series.add(built.fault)
            return series.trial(built.diagnostics)
        done = await self.sandbox.run(built.job(""), built.limits)
        held = done.status == "ok" and passed(word, done.stdout.decode("utf-8", "replace"))
        early = Result("wrong", "it ended before its tests did")
        series.add(Result("passed") if held else early if done.status == "ok" else _ended(done))
        return series.trial(built.diagnostics)

    async def _call(self, program: str, tests: Calling) -> Trial:
        series = _Series(self, len(tests.cases))
        running = Program(self.sandbox, self._talk_limits(), program, "leetcode")
        try:
            for case in tests.cases:
                if series.over:
                    break
                answer = await running.call(tests.name, case.given, case.named, self.limits.wall_seconds)
                series.add(_returned(case, answer, self.tolerance))
        finally:
            await running.finish()
        return series.trial()

    async def _assert(self, program: str, tests: Asserting) -> Trial:
        series = _Series(self, len(tests.cases))
        whole = program if not tests.entry or re.search(rf"def\s+{re.escape(tests.entry)}\b", program) else tests.head + program
        running = Program(self.sandbox, self._talk_limits(), whole, "preamble" if tests.head else "none", tests.head)
        try:
            async for result in relay(self.sandbox, self._talk_limits(), running, tests, self.limits.wall_seconds):
                series.add(result)
                if series.over:
                    break
        finally:
            await running.finish()
        return series.trial()

    def _talk_limits(self) -> Limits:
        """A talk lasts for all the tests."""
        seconds, output = self.total_seconds, 8 * self.limits.output_bytes
        return replace(self.limits, wall_seconds=seconds, cpu_seconds=seconds, output_bytes=output)

    async def _build(self, language: Language, program: str) -> _Built:
        """The program ready to run, compiled where its language is."""
        build = language.build(self.tools, program, self.limits.memory_mb)
        limits = language.limits(self.limits)
        if not build.compile:
            return _Built(limits, lambda stdin: build.running(program, None, _bytes(stdin)))
        done = await self.sandbox.run(build.compiling(program), language.limits(self.compile_limits))
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
        artefact = done.kept.get(build.artefact)
        return _Built(limits, lambda stdin: build.running(program, artefact, _bytes(stdin)), _not_built(done, artefact, said), said)


@dataclass(frozen=True, slots=True)
class _Built:
    """A program that can be run, or the fault that prevents it."""

    limits: Limits
    job: Callable[[str], Job]
    """From its input to the job."""
    fault: Result | None = None
    diagnostics: str = ""


class _Series:
    """The results so far, and whether to go on."""

    def __init__(self, bench: Bench, planned: int):
        self._results: list[Result] = []
        self._planned, self._stop_early, self._until = planned, bench.stop_early, time.monotonic() + bench.total_seconds
        self._stuck = False

    @property
    def over(self) -> bool:
        """Whether no further test is to be run."""
        late = time.monotonic() > self._until and len(self._results) < self._planned
        if late and not self._stuck:
            self._stuck = True
            self._results.append(Result("timeout", "the time for all tests together was over"))
        failed = bool(self._results) and self._results[-1].status != "passed"
        return self._stuck or (failed and self._stop_early) or any(result.status == "error" for result in self._results)

    def add(self, result: Result) -> None:
        """One more result."""
        self._results.append(result)

    def trial(self, diagnostics: str = "") -> Trial:
        """What became of all tests."""
        return Trial(tuple(self._results), self._planned, diagnostics)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _printed(case: Case, done: Execution, tolerance: float) -> Result:
    if done.status != "ok":
        ended = _ended(done)
        return Result(ended.status, f"input {shorten(case.stdin)!r}: {ended.note}")
    fault = output_fault(case.stdout, done.stdout.decode("utf-8", "replace"), tolerance)
    return Result("wrong", f"input {shorten(case.stdin)!r}: {fault}") if fault else Result("passed")


def _returned(case: Call, answer: Answer, tolerance: float) -> Result:
    given = shorten(", ".join([*map(repr, case.given), *(f"{name}={value!r}" for name, value in case.named.items())]))
    if answer.status != "passed":
        return Result(answer.status, f"called with {given}: {answer.note}")
    if any(same_value(value, answer.value, tolerance) for value in case.accepted):
        return Result("passed")
    return Result("wrong", f"called with {given}: expected {shorten(case.accepted[0])}, got {shorten(answer.value)}")


def _ended(done: Execution) -> Result:
    """A run that did not end well, with the exception where one was named."""
    said = shorten(_complaint(done.stderr.decode("utf-8", "replace"))) if done.status == "failed" else ""
    return Result("failed" if done.status == "ok" else done.status, f"{done.note}, {said}" if said else done.note)


def _complaint(text: str) -> str:
    """The line that names the exception: the last one, unless that belongs to a trace or a farewell."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    named = [line.strip() for line in lines if _NAMED.match(line)]
    return named[-1] if named and _TRACE.match(lines[-1]) else (lines or [""])[-1].strip()


def _not_built(done: Execution, artefact: bytes | None, said: str) -> Result | None:
    if done.status == "ok" and artefact is not None:
        return None
    if done.status in ("error", "timeout"):
        return Result(done.status, f"compiling: {done.note}")
    errors = [line for line in said.splitlines() if "error" in line]
    return Result("compile", "does not compile: " + shorten((errors or [said or done.note or "too large"])[0]))
