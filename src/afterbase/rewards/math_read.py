r"""Tidied text as one of the kinds of `math_kinds`: "x=1 or x=2", "[1,2) \cup \{5\}", "(3, \pi/2)", "2 hours 30 minutes", "52_8".

Nothing here computes or guesses: what can be read in several ways ("(1,2)" is a point and an interval) keeps its form, and
`math_compare` reads it as its partner asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from afterbase.rewards import math_words
from afterbase.rewards.math_kinds import Based, Chain, Items, Kind, Matrix, Opaque, Ratio, Value, Words
from afterbase.rewards.math_phrases import mutual, residue, without_condition
from afterbase.rewards.math_region import ALL
from afterbase.rewards.math_surface import ungrouped
from afterbase.rewards.math_tree import Tree, Unreadable, parse
from afterbase.rewards.math_units import Unit, currency, split_unit

MAX_PARTS = 60
MAX_NESTING = 8

_PIECES = re.compile(
    r"\\begin\s*\{\w+\*?\}(?:\{[lcr| ]*\})?|\\end\s*\{\w+\*?\}|\\text\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|<=|>=|!=|==|[A-Za-z]+|[一-鿿]+|\S|\s+",
    re.DOTALL,
)
_OPENING = frozenset({"(", "[", "{", r"\{", r"\langle"})
_CLOSING = frozenset({")", "]", "}", r"\}", r"\rangle"})
_AND, _OR = frozenset({"and", r"\land", "&", "和", "与", "及", "以及", "且", "跟"}), frozenset({"or", r"\lor", "或", "或者"})
_COMMAS, _WHERE = frozenset({",", ";", "，"}), frozenset({"where", "其中"})
_RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", r"\le": r"\le", r"\ge": r"\ge", "<=": r"\le", ">=": r"\ge", r"\ne": r"\ne", "!=": r"\ne",
    r"\approx": r"\approx",
}  # fmt: skip
_ENVIRONMENT = re.compile(
    r"(?P<lead>[\[(]?)\s*\\begin\{(?P<name>[pbBv]?matrix|smallmatrix|array|cases|aligned|align\*?|gathered)\}(?:\{[lcr| ]*\})?"
    r"(?P<body>.*)\\end\{(?P=name)\}\s*[\])]?",
    re.DOTALL,
)
_BASED = re.compile(
    r"(?:\\text\s*\{\s*)?\(?(-?[0-9A-Fa-f.]+)\)?\s*\}?\s*(?:_\s*\{?\s*(?:\\text\{)?\s*\(?(\d{1,2}|[a-z]+)\)?\s*\}?\}?"
    r"|\(?\s*(?:\\text\{)?\s*(?:in\s+)?base[\s-]*\}?\s*(\d{1,2}|[a-z]+)\)?\}?)"
)
_BASES = {
    "two": 2, "binary": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "octal": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "sixteen": 16, "hex": 16,
}  # fmt: skip
_INTEGER = re.compile(
    r"(?:\\text\{)?(?:where|with|for|其中|for all|for any)?\s*\}?\s*\(?([a-zA-Z])\s*"
    r"(?:\\in\s*(?:\\mathbb\s*\{?\s*[ZN]\s*\}?(?:\^[+*])?|[ZN])"
    r"|(?:\\text\s*\{)?\s*(?:is\s+(?:an?|any)\s+(?:\w+\s+)?integer|integer|an integer|为(?:任意)?整数|是(?:任意)?整数)\s*\}?)\)?"
)
_DECIMAL = re.compile(r"-?(\d*)\.(\d+)(?:%|\^\\circ)?")
_QUANTITY = re.compile(r"(\d++(?:\.\d++)?)\s*(\\text\s*\{[^{}]*\}|[A-Za-z]+|[一-鿿]{1,2})\s*(?:,|and|又|零)?\s*")
_LABELLED = re.compile(r"(?:\\text\{)?(?:[A-Z]|[Pp]oint\s+[A-Z]|点[A-Z]?)\}?\s*(?=\()")
_REALS = re.compile(r"(?:x\s*\\in\s*)?(?:\\mathbb\s*\{?\s*R\s*\}?|\\mathbf\s*\{R\})")
_EXCEPT = re.compile(r"(.*?)\s*(?:\\setminus|\\text\{\s*except\s*\}|except(?:\s+for)?|excluding|\\text\{\s*excluding\s*\})\s*(.*)")
_SET_NAME = re.compile(r"[A-Z](?:\s*\\(?:c[au]p|setminus)\s*[A-Z])+\s*=")
_DOTTED = re.compile(r"(-?\d+\.\d*?(?=(\d{1,6}?)\2+(?:\.|\\|\s))\d+)\s*(?:\.{3}|\\ldots)\s*")


@lru_cache(maxsize=512)
def read(text: str, commas: str = "thousands") -> Kind:
    """What a tidied answer is; `commas` says whether the one in "1,234" groups digits or divides a list."""
    return _read(ungrouped(_recurring(text)) if commas == "thousands" else text, 0)


def parts(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and text of each piece that stands outside all brackets."""
    depth = 0
    for match in _PIECES.finditer(text):
        piece = match[0]
        if piece in _CLOSING or piece.startswith("\\end"):
            depth -= 1
        if depth <= 0:
            yield match.start(), match.end(), piece
        if piece in _OPENING or piece.startswith("\\begin"):
            depth += 1


def split(text: str, separators: frozenset[str] | dict[str, str]) -> tuple[list[str], list[str]]:
    """The text between separators that stand outside all brackets, and the separators."""
    found, used, begin = [], [], 0
    for start, end, piece in parts(text):
        name = math_words.flat(piece).lower() if piece.startswith("\\text") else piece
        if name in separators:
            found.append(text[begin:start].strip())
            used.append(name)
            begin = end
    return [*found, text[begin:].strip()], used


def _read(text: str, depth: int) -> Kind:
    """The first reader that knows the form wins; each looks at less than the one before it."""
    text = _european(text.strip().strip("~").strip())
    if depth > MAX_NESTING or len(text) > 2000:
        return Opaque(text)
    for reader in _READERS:
        if (kind := reader(text, depth)) is not None:
            return kind
    return Opaque(text)


def _phrase(text: str, depth: int) -> Kind | None:
    bare = math_words.flat(text)
    name = math_words.normal(bare)
    if name == "real numbers" or _REALS.fullmatch(bare):
        return ALL
    if bare in (r"\emptyset", r"\{ \}", r"\{\}", "{}", r"\phi"):
        return Words("no solution") if bare != r"\phi" else None
    if name in ("infinity", "negative infinity"):
        return _value(r"\infty" if name == "infinity" else r"-\infty")
    if name in math_words.SPECIAL and len(bare) > 1:
        return Words(name)
    number = math_words.english_number(bare) if bare.replace(" ", "").replace("-", "").isalpha() else None
    return _value(number) if number else None


def _moment(text: str, depth: int) -> Kind | None:
    return math_words.moment(text)


def _residue(text: str, depth: int) -> Kind | None:
    return residue(text)


def _conditioned(text: str, depth: int) -> Kind | None:
    bare = without_condition(text)
    return _read(bare, depth + 1) if bare != text else None


def _mutual(text: str, depth: int) -> Kind | None:
    lines = mutual(text)
    return Opaque(lines) if lines else None


def _environment(text: str, depth: int) -> Kind | None:
    match = _ENVIRONMENT.fullmatch(text)
    if not match or r"\begin" in match["body"]:
        return _rows_in_brackets(text, depth) or _scaled(text, depth)
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr\b|\\tabularnewline", match["body"]) if row.strip(" \\hline")]
    if not rows:
        return Opaque(text)
    if match["name"] in ("cases", "aligned", "align", "align*", "gathered"):
        return _joined([_read(row.replace("&", " "), depth + 1) for row in rows], "list")
    if match["name"] == "vmatrix":
        return Opaque(text)  # a determinant
    return Matrix(tuple(tuple(_read(cell, depth + 1) for cell in row.split("&")) for row in rows), text)


def _scaled(text: str, depth: int) -> Kind | None:
    """A number or expression times a matrix as the matrix that this is."""
    head, begin, body = text.partition("\\begin")
    factor = _value(re.sub(r"(?:\\cdot|\\times|\*)\s*\Z", "", head.strip())) if head.strip() and begin else None
    matrix = _environment(begin + body, depth) if factor and depth < MAX_NESTING else None
    if not isinstance(factor, Value) or not isinstance(matrix, Matrix):
        return None
    if not all(isinstance(cell, Value) for row in matrix.rows for cell in row):
        return None
    rows = [[Value(("mul", (factor.tree, cell.tree)), f"({factor.text})({cell.text})") for cell in row] for row in matrix.rows]
    return Matrix(tuple(tuple(row) for row in rows), text)


def _rows_in_brackets(text: str, depth: int) -> Kind | None:
    """[[1,2],[3,4]] is a matrix."""
    if not re.fullmatch(r"\[\s*\[.*\]\s*\]", text, re.DOTALL):
        return None
    rows, _ = split(text[1:-1], _COMMAS)
    if not all(row.startswith("[") and row.endswith("]") for row in rows):
        return None
    return Matrix(tuple(tuple(_read(cell, depth + 1) for cell in split(row[1:-1], _COMMAS)[0]) for row in rows))


def _based(text: str, depth: int) -> Kind | None:
    match = _BASED.fullmatch(text)
    name = (match[2] or match[3]) if match else None
    if not match or not name or not (re.search(r"\d", match[1]) or name in ("16", "hex", "sixteen")):
        return None
    base = int(name) if name.isdigit() else _BASES.get(name)
    return Based(match[1].upper().lstrip("0") or "0", base) if base and base > 1 else None


def _several(text: str, depth: int) -> Kind | None:
    """What commas, "and" and "or" divide."""
    text = re.sub(r"^(?:\\text\{\s*)?(?:either|both)\s*\}?\s+", "", text)
    found, used = split(text, _COMMAS | _AND | _OR | _WHERE)
    if not used or len(found) > MAX_PARTS:
        return None if not used else Opaque(text)
    kept = [part for i, part in enumerate(found) if part or not _beside_a_word(used, i)]
    kept = [part for part in kept if not _INTEGER.fullmatch(part)] or kept
    kept = [part for i, part in enumerate(kept) if i == 0 or not re.fullmatch(r"(?:\\text\{)?\s*(?:respectively|only)\s*\}?", part)]
    if len(kept) == 1:
        return _read(kept[0], depth + 1)
    if not kept or not all(kept):
        return Opaque(text)
    how = "or" if any(sign in _OR for sign in used) else "list"
    kinds = [_read(part, depth + 1) for part in kept]
    words = all(isinstance(kind, Words) and kind.text not in math_words.SPECIAL for kind in kinds) and how == "or"
    return Words(math_words.normal(text)) if words else _joined(kinds, how)


def _beside_a_word(used: list[str], place: int) -> bool:
    """Whether an empty part is no gap: "1, and 2" has one between comma and word."""
    return 0 < place < len(used) and any(sign not in _COMMAS for sign in used[max(place - 1, 0) : place + 1])


def _joined(kinds: list[Kind], how: str) -> Kind:
    """One list of all; lists inside it were divided by another sign only."""
    flat: list[Kind] = []
    for kind in kinds:
        flat += kind.items if isinstance(kind, Items) and kind.how in ("list", "or") else [kind]
    return flat[0] if len(flat) == 1 else Items("or" if how == "or" else "list", tuple(flat))


def _signs(text: str, depth: int) -> Kind | None:
    r"""\pm stands for both signs, \mp for the opposite ones at the same time."""
    if r"\pm" not in text and r"\mp" not in text and "+-" not in text and "+/-" not in text:
        return None
    text = text.replace("+/-", r"\pm ").replace("+-", r"\pm ")
    upper = re.sub(r"\\pm(?![a-z])", " + ", re.sub(r"\\mp(?![a-z])", " - ", text))
    lower = re.sub(r"\\pm(?![a-z])", " - ", re.sub(r"\\mp(?![a-z])", " + ", text))
    head = re.match(r"\s*[A-Za-z]\w*\s*=\s*", text)
    if head:
        upper, lower = (head[0] + side[head.end() :] for side in (upper, lower))
    return _joined([_read(side, depth + 1) for side in (upper, lower)], "or")


def _membership(text: str, depth: int) -> Kind | None:
    r"""x \in S is S."""
    found, used = split(text, frozenset({r"\in"}))
    if len(used) != 1 or not re.fullmatch(r"[A-Za-z\\]+\w*", found[0].strip()):
        return None
    return _read(found[1], depth + 1)


def _operations(text: str, depth: int) -> Kind | None:
    """Unions, intersections and differences of sets keep their sign and are computed where they are compared."""
    if _SET_NAME.match(text):
        return None
    for sign in (r"\cup", r"\cap", r"\setminus"):
        found, used = split(text, frozenset({sign, "U"}) if sign == r"\cup" else frozenset({sign}))
        if used and all(found):
            return Chain((sign,) * len(used), tuple(_read(part, depth + 1) for part in found), tuple(found))
    if match := _EXCEPT.fullmatch(text):
        return Chain((r"\setminus",), (_read(match[1], depth + 1), _read(match[2], depth + 1)), (match[1], match[2]))
    if match := re.fullmatch(r"(\\mathbb\s*\{?R\}?)\s*-\s*(\\\{.*\\\})", text):
        return Chain((r"\setminus",), (ALL, _read(match[2], depth + 1)), (match[1], match[2]))
    return None


def _relations(text: str, depth: int) -> Kind | None:
    found, used = split(text, _RELATIONS)
    if used and found[0] == "" and used[0] in (r"\approx", "="):
        found, used = found[1:], used[1:]
        if not used:
            return _read(found[0], depth + 1)
    if not used:
        return None
    if not all(found) or len(found) > 12:
        return Opaque(text)
    return Chain(
        tuple(_RELATIONS[sign] for sign in used),
        tuple(_read(side, depth + 1) for side in found),
        tuple(side.replace(" ", "") for side in found),
    )


def _brackets(text: str, depth: int) -> Kind | None:
    r"""(1, 2), [1, 2), \{1, 2\}, \langle 1, 2 \rangle; a set may say which elements it has: \{x \mid x > 2\}."""
    if text.endswith(")") and "," in text and (label := _LABELLED.match(text)):
        text = text[label.end() :]
    opening = next((sign for sign in (r"\{", r"\langle", "(", "[") if text.startswith(sign)), None)
    closing = next((sign for sign in (r"\}", r"\rangle", ")", "]") if text.endswith(sign)), None)
    if opening is None or closing is None or len(text) < len(opening) + len(closing) or not _is_one_pair(text):
        return _bare_braces(text, depth)
    inside = text[len(opening) : -len(closing)].strip()
    if opening == r"\{" and (match := re.fullmatch(r"[A-Za-z]\w*\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*[|:]\s*(.*)", inside)):
        return _read(match[1], depth + 1)
    found, used = split(inside, _COMMAS | ({"|"} if opening == r"\langle" else frozenset()))
    if not used and opening != r"\{":
        return _read(inside, depth + 1) if opening + closing in ("()", "[]") and _divided(inside) else None
    if not all(found) or len(found) > MAX_PARTS:
        return Opaque(text)
    kinds = tuple(_read(part, depth + 1) for part in found)
    if opening == r"\{":
        return Items("set", kinds, "{}")
    return Items("tuple" if opening + closing in ("()", "[]", r"\langle\rangle") else "interval", kinds, opening[-1:] + closing[-1:])


def _divided(inside: str) -> bool:
    """Whether brackets around it hold more than an expression: "(x = 5)", "(B or C)"."""
    return bool(split(inside, _RELATIONS)[1] or split(inside, _AND | _OR)[1])


def _bare_braces(text: str, depth: int) -> Kind | None:
    """{1, 2} without the backslash is a set, {5} a group."""
    if not (text.startswith("{") and text.endswith("}") and _is_one_pair(text)):
        return None
    found, used = split(text[1:-1], _COMMAS)
    return Items("set", tuple(_read(part, depth + 1) for part in found), "{}") if used and all(found) else _read(text[1:-1], depth + 1)


def _is_one_pair(text: str) -> bool:
    """Whether the first bracket closes with the last."""
    begins = [start for start, _, piece in parts(text) if piece in _OPENING]
    return len(begins) == 1


def _european(text: str) -> str:
    """]1,2[ as (1,2)."""
    if re.fullmatch(r"[\[\]][^\[\]]*[,;][^\[\]]*[\[\]]", text) and (text[0] == "]" or text[-1] == "["):
        return ("(" if text[0] == "]" else "[") + text[1:-1] + (")" if text[-1] == "[" else "]")
    return text


def _ratio(text: str, depth: int) -> Kind | None:
    text = re.sub(r"(?<=\d)\s*(?:to|比|\\text\{\s*to\s*\})\s*(?=\d)", ":", text)
    found, used = split(text, frozenset({":"}))
    if not used or not all(found):
        return None
    terms = [_value(part) for part in found]
    return Ratio(tuple(term for term in terms if isinstance(term, Value))) if all(isinstance(term, Value) for term in terms) else None


def _quantity(text: str, depth: int) -> Kind | None:
    """A value with its unit or currency; or several that add up: 2 hours 30 minutes."""
    if money := currency(text):
        value = _value(split_unit(money[1])[0] if split_unit(money[1]) else money[1])
        return Value(value.tree, value.text, money[0], value.places, value.digits) if isinstance(value, Value) else None
    if total := _added(text):
        return total
    divided = split_unit(text)
    if divided is None:
        return None
    inner = _brackets(divided[0], depth + 1) or _value(divided[0])
    if not isinstance(inner, Value):
        return inner if isinstance(inner, Items) else None
    return Value(inner.tree, inner.text, inner.unit or divided[1], inner.places, inner.digits)


def _added(text: str) -> Value | None:
    matches = list(_QUANTITY.finditer(text))
    if len(matches) < 2 or "".join(match[0] for match in matches) != text:
        return None
    found = [split_unit(f"{match[1]} {match[2]}") for match in matches]
    units: list[Unit] = [one[1] for one in found if one]
    if len(units) < len(matches) or not units[0].known or len({unit.dimension for unit in units}) > 1:
        return None
    if any(later.size >= earlier.size for earlier, later in pairwise(units)):
        return None
    value = sum(Fraction(match[1]) * unit.size for match, unit in zip(matches, units, strict=True)) / units[0].size
    return Value(("num", value), text, units[0])


def _expression(text: str, depth: int) -> Kind | None:
    value = _value(text)
    return value if isinstance(value, Value) else None


def _text(text: str, depth: int) -> Kind | None:
    """Words, if there are any."""
    bare = math_words.flat(text)
    named = re.sub(r"\\[A-Za-z]+", "", bare)
    has_words = bool(re.search(r"[A-Za-z]{4,}|[㐀-鿿]", named)) or (r"\text" in text and bool(re.search("[A-Za-z]", named)))
    return Words(math_words.normal(bare)) if has_words else None


def _value(text: str) -> Value | None:
    """One expression without a unit; None when it is none."""
    text = text.strip()
    try:
        tree: Tree = parse(text)
    except (Unreadable, RecursionError, ZeroDivisionError):
        return None
    match = _DECIMAL.fullmatch(text)
    if not match:
        return Value(tree, text)
    return Value(tree, text, None, len(match[2]), len((match[1] + match[2]).lstrip("0")))


def _recurring(text: str) -> str:
    r"""0.333... as 0.\overline{3}: the last digits stand there at least three times (two, if they are several) before the dots."""
    match = _DOTTED.fullmatch(text)
    if not match or (len(match[2]) == 1 and not match[1].endswith(match[2] * 3)):
        return text
    return rf"{match[1].removesuffix(match[2])}\overline{{{match[2]}}}"


_READERS = (
    _phrase, _moment, _environment, _based, _residue, _conditioned, _mutual, _signs, _several, _operations, _membership, _relations,
    _brackets, _ratio, _quantity, _expression, _text,
)  # fmt: skip
