r"""Tidied text as signs: numbers, letters, words, commands; which runs of letters are functions, products of variables, or words."""

from __future__ import annotations

import re
from typing import NamedTuple


class Token(NamedTuple):
    """One sign, e.g. Token("num", "3.5", spaced=False)."""

    kind: str
    """num, letter, word, text, cmd, or op."""
    text: str
    """As written; of \\text{cm} the "cm"."""
    spaced: bool
    """Whether white space stands before it."""


_TOKEN = re.compile(
    r"(?P<space>\s*)(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<cmd>\\[A-Za-z]+|\\[^A-Za-z])"
    r"|(?P<num>\d+(?:\.\d+|\.(?=\\(?:overline|bar|dot)))?|\.\d+)|(?P<word>[A-Za-z]+)"
    r"|(?P<cjk>[㐀-鿿]+)|(?P<op>\S))"
)
_FUNCTION_NAMES = """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp sqrt cbrt abs floor ceil cis max min gcd lcm sgn
    arg det deg dim ker Re Im
"""
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar
"""
FUNCTIONS, GREEK = frozenset(_FUNCTION_NAMES.split()), frozenset(_GREEK_NAMES.split())
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf"}
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arcsec": "arcsec", "ctg": "cot", "tg": "tan", "Sqrt": "sqrt", "lg": "lg"}


def tokens(text: str) -> list[Token]:
    """The signs of a tidied text; words that are no function and no constant stay whole when they are too long to be products."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, spaced = match.lastgroup or "op", bool(match["space"])
        if kind == "word":
            found += _letters(match["word"], spaced)
        else:
            found.append(Token("text" if kind == "cjk" else kind, match[kind].strip() if kind == "text" else match[kind], spaced))
    return found


def _letters(word: str, spaced: bool) -> list[Token]:
    name = _ALIASES.get(word, word)
    if name in FUNCTIONS or name in GREEK or name.lower() in CONSTANTS:
        return [Token("cmd", "\\" + name, spaced)]
    if len(word) > 3 and not (word.isupper() and len(word) <= 5):
        return [Token("word", word, spaced)]
    return [Token("letter", letter, spaced and not i) for i, letter in enumerate(word)]
