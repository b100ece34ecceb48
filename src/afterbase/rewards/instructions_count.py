"""How many sentences, words and capital words a response has, as IFEval's checks count them but without their models and data.

The official checks ask NLTK: its Punkt model for sentences, its tokenizer for capital words. The rules here are our own and written to
agree with them, also where a reader would count otherwise ("e.g. this" ends a sentence, a list's "1." is one). They differ where only
Punkt's tables know that a word before a full stop is a name or an abbreviation.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"\w+")
_MARKS = re.compile(r"(?<![.?!])[.?!]++(?=(?P<closing>[)\";}\]*:@'({\[‘’“”«»])|\s+(?P<next>\S))")
_BEFORE = re.compile(r"[^\s(\"`{\[:;&#*@)}\],]*\Z")
_NEXT = re.compile(r"\s+([^\W\d_]+)")
_REST = re.compile(r"[\"')\]}]*\s*\Z")
_LONGEST = 40  # characters of a word before a full stop that are looked at
_SHORT = """
    mr mrs ms dr prof sr jr st messrs gen col maj lt sen rep reps adm inc ltd co corp cie bros vs jan feb aug sep sept oct nov dec tues wed
    fri ave ft yr ok a.m p.m u.s u.k u.n u.s.a u.s.s.r ph.d d.c n.y n.j l.a m.b.a j.k j.r w.w calif fla ill mich minn colo conn ariz okla
    tenn wash va ga pa ky vt la.
"""
_ABBREVIATIONS = frozenset(_SHORT.split())
_STARTS = """
    the this that these those he she it they we his her its their our my in on at if so but and however when there then for as to what how
    since although while yet also thus therefore after before with from by
"""
_STARTERS = frozenset(_STARTS.split())  # words that begin a sentence, with a capital letter, even after an abbreviation
_INITIALS = frozenset("cdhknprstw")  # letters that never end a sentence; the others do at the start of a line, where they number a list
_CAPITALS = re.compile(r"[^\s,;:@#$%&?!*()\[\]{}<>\"“”„«»‘’`‒–—―]+")
_CLITICS = re.compile(r"(?<=[^'\s])(?:'(?:s|m|d|ll|re|ve)?|n't)\Z", re.IGNORECASE)
_IN_TWO = frozenset(["CANNOT", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA", "D'YE"])


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores: "don't" is two words, "well-known" too."""
    return len(_WORDS.findall(text))


def count_sentences(text: str) -> int:
    """Sentences, e.g. 2 for "Mr. Smith left. Why?"; a text without any mark is one, an empty text none."""
    text = text.strip()
    ends = [marks.end() for marks in _MARKS.finditer(text) if _ends(text, marks)]
    if ends and _REST.match(text, ends[-1]):
        ends.pop()  # only closing quotes and brackets are left
    return len(ends) + 1 if text else 0


def count_capital_words(text: str) -> int:
    """Words all of whose letters are capitals, "I" and "A" among them: 3 in "I SAW a DVD", 2 in "DON'T" (DO and N'T)."""
    count = 0
    for word in _CAPITALS.findall(text):
        count += sum(_capital_parts(part) for part in re.split(r"--|\.{2,}", word))
    return count


def _capital_parts(word: str) -> int:
    clitic = _CLITICS.search(word)
    parts = [word[: clitic.start()], clitic.group()] if clitic else [word]
    return sum(part.isupper() for part in parts) + (word.rstrip(".") in _IN_TWO)


def _ends(text: str, marks: re.Match[str]) -> bool:
    """Whether a run of marks ends a sentence: ? and ! do, full stops unless what stands before them is known for its own."""
    if marks.group().strip("."):
        return True
    following = _NEXT.match(text, marks.end())
    word = following[1] if following else ""
    starts = word[:1].isupper() and word.lower() in _STARTERS
    if len(marks.group()) > 1:
        return starts
    before = _BEFORE.search(text, max(0, marks.start() - _LONGEST), marks.start())
    last = before.group().lower().lstrip("'") if before else ""
    if len(last) == 1 and last.isalpha():
        return last not in _INITIALS and (starts or _begins_line(text, marks.start() - 1))
    if last.rpartition("-")[2] in _ABBREVIATIONS:
        return starts
    return not (last.isdecimal() and word[:1].islower())


def _begins_line(text: str, here: int) -> bool:
    return text[max(0, here - _LONGEST) : here].rstrip(" \t")[-1:] in ("", "\n")
