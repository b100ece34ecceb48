r"""Expressions as trees: a small reader of LaTeX and plain mathematics ("\frac{x^2}{2}", "2 sin 5x cos x", "3 1/2", "0.\overline{3}").

A tree is a tuple whose first entry names the node: ("num", Fraction), ("sym", name), ("const", name), ("add", trees), ("mul", trees),
("div", a, b), ("pow", a, b), ("neg", a), ("root", index, a), ("log", base or None, a), ("call", function, a), ("choose", n, k),
("pick", max or gcd, trees), ("deg", a), ("pct", a). What it does not know it refuses: `Unreadable`.
It computes nothing and costs time linear in the text.
"""

from __future__ import annotations

from fractions import Fraction

from afterbase.rewards.math_lex import CONSTANTS, FUNCTIONS, GREEK, Token, tokens

MAX_DEPTH = 40  # brackets inside brackets; the deepest answer of MATH has 5
MAX_DIGITS = 400

Tree = tuple


class Unreadable(ValueError):
    """The text is no expression that this page knows."""


_ACCENTS = frozenset({r"\vec", r"\hat", r"\bar", r"\tilde", r"\dot", r"\widehat", r"\overrightarrow", r"\overline", r"\mathbf"})
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_TIMES = frozenset({"*", r"\cdot", r"\times"})
_OVER = frozenset({"/", r"\div"})


def parse(text: str) -> Tree:
    """The tree of a tidied text; Unreadable when it is anything but one expression."""
    return parse_tokens(tokens(text))


def parse_tokens(signs: list[Token]) -> Tree:
    """The tree of these signs."""
    reader = _Reader(signs)
    tree = reader.sum()
    if reader.sign is not None:
        raise Unreadable(f"{reader.sign.text!r} is unexpected")
    return tree


def symbols(tree: Tree) -> frozenset[str]:
    """The names of the variables in a tree."""
    if tree[0] == "sym":
        return frozenset((tree[1],))
    children = (child for part in tree[1:] for child in ((part,) if _is_tree(part) else part if isinstance(part, tuple) else ()))
    return frozenset().union(*(symbols(child) for child in children if _is_tree(child)))


def contains(tree: Tree, node: str) -> bool:
    """Whether a node of that name, or a function or constant of it, is in the tree."""
    if tree[0] == node or (tree[0] in ("call", "const") and tree[1] == node):
        return True
    children = (child for part in tree[1:] for child in ((part,) if _is_tree(part) else part if isinstance(part, tuple) else ()))
    return any(contains(child, node) for child in children if _is_tree(child))


def _is_tree(part: object) -> bool:
    return isinstance(part, tuple) and bool(part) and isinstance(part[0], str)


class _Reader:
    """Recursive descent over signs; each method reads what its name says."""

    def __init__(self, signs: list[Token]):
        self.signs, self.place, self.depth, self.bars = signs, 0, 0, 0

    @property
    def sign(self) -> Token | None:
        return self.signs[self.place] if self.place < len(self.signs) else None

    def peek(self, ahead: int = 1) -> Token | None:
        return self.signs[self.place + ahead] if self.place + ahead < len(self.signs) else None

    def next(self) -> Token:
        if self.sign is None:
            raise Unreadable("it ends too early")
        self.place += 1
        return self.signs[self.place - 1]

    def takes(self, *texts: str) -> bool:
        if self.sign is not None and self.sign.kind in ("op", "cmd") and self.sign.text in texts:
            self.place += 1
            return True
        return False

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            raise Unreadable("too deep")
        terms = [self.signed()]
        while self.sign is not None and self.sign.kind == "op" and self.sign.text in "+-":
            terms.append(self.signed())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def signed(self) -> Tree:
        negative = False
        for _ in range(4):
            if self.takes("-"):
                negative = not negative
            elif not self.takes("+"):
                break
        term = self.product()
        return ("neg", term) if negative else term

    def product(self) -> Tree:
        factors = [self.factor()]
        while self.sign is not None:
            if self.takes(*_TIMES):
                factors.append(self.negated())
            elif self.takes(*_OVER):
                above = factors[0] if len(factors) == 1 else ("mul", tuple(factors))
                factors = [("div", above, self.negated())]
            elif self.begins():
                factors.append(self.factor())
            else:
                break
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def negated(self) -> Tree:
        return ("neg", self.factor()) if self.takes("-") else self.factor()

    def begins(self, inside_call: bool = False) -> bool:
        """Whether the next sign begins a factor that is multiplied without a sign."""
        sign = self.sign
        if sign is None or sign.kind in ("word", "text"):
            return False
        if sign.kind == "num":
            return self.place > 0 and self.signs[self.place - 1].text in ("}", ")", "]")
        if sign.kind == "letter":
            return True
        if sign.kind == "op":
            return sign.text in "({[" or (sign.text == "|" and not self.bars)
        name = sign.text[1:]
        if inside_call and name in FUNCTIONS:
            return False
        return name in FUNCTIONS or name in GREEK or name in CONSTANTS or sign.text in _ACCENTS or sign.text in _STARTS

    def factor(self) -> Tree:
        """An atom with what is raised, lowered and postfixed to it."""
        base = self.atom()
        while self.sign is not None:
            if self.takes("!"):
                base = ("call", "factorial", base)
            elif self.takes("%"):
                base = ("pct", base)
            elif self.takes("^"):
                base = ("deg", base) if self.takes(r"\circ") else ("pow", base, self.raised())
            else:
                break
        return base

    def raised(self) -> Tree:
        if self.sign is not None and self.sign.text == "{":
            return self.group()
        if self.takes("-"):
            return ("neg", self.raised())
        self.takes("+")
        base = self.atom()
        return ("pow", base, self.raised()) if self.takes("^") else base

    def group(self) -> Tree:
        """What stands in the brackets that open here."""
        opening = self.next().text
        bars, self.bars = self.bars, 0
        tree = self.sum()
        self.bars = bars
        if not self.takes(_CLOSING[opening]):
            raise Unreadable(f"{opening!r} is not closed")
        return tree

    def atom(self) -> Tree:
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            raise Unreadable("too deep")
        tree = self.first()
        self.depth -= 1
        return tree

    def first(self) -> Tree:
        sign = self.sign
        if sign is None:
            raise Unreadable("it ends too early")
        if sign.kind == "num":
            return self.number()
        if sign.kind == "letter":
            return self.symbol(self.next().text)
        if sign.kind == "op":
            return self.bracketed(sign.text)
        if sign.kind == "cmd":
            return self.command()
        raise Unreadable(f"{sign.text!r} is a word")

    def bracketed(self, opening: str) -> Tree:
        if opening in ("(", "[", "{"):
            return self.group()
        if opening == "|":
            self.next()
            self.bars += 1
            inside = self.sum()
            self.bars -= 1
            if not self.takes("|"):
                raise Unreadable("| is not closed")
            return ("call", "abs", inside)
        raise Unreadable(f"{opening!r} is unexpected")

    def number(self) -> Tree:
        digits = self.next().text
        if len(digits) > MAX_DIGITS:
            raise Unreadable("too many digits")
        value = ("num", Fraction(digits))
        if "." in digits and (repeating := self.repeating(digits)) is not None:
            return repeating
        if "." not in digits and (part := self.mixed()) is not None:
            return ("num", value[1] + part)
        return value

    def repeating(self, digits: str) -> Tree | None:
        r"""0.1\overline{6}: the digits under the bar go on for ever."""
        signs = self.signs[self.place : self.place + 4]
        if [sign.text for sign in signs[:2]] not in ([r"\overline", "{"], [r"\bar", "{"], [r"\dot", "{"]) or len(signs) < 4:
            return None
        if signs[2].kind != "num" or not signs[2].text.isdigit() or signs[3].text != "}":
            return None
        self.place += 4
        places, block = len(digits.partition(".")[2]), signs[2].text
        return ("num", Fraction(digits) + Fraction(int(block), (10 ** len(block) - 1) * 10**places))

    def mixed(self) -> Fraction | None:
        r"""The proper fraction behind a whole number: 2\frac{1}{2} and "2 1/2" are two and a half, no products."""
        signs = self.signs[self.place : self.place + 7]
        texts = [sign.text for sign in signs]
        if texts[:2] == [r"\frac", "{"] and len(signs) == 7 and texts[3:5] == ["}", "{"] and texts[6] == "}":
            above, below, length = texts[2], texts[5], 7
        elif len(signs) >= 3 and signs[0].kind == "num" and signs[0].spaced and texts[1] == "/":
            above, below, length = texts[0], texts[2], 3
        else:
            return None
        if not (above.isdigit() and below.isdigit() and max(len(above), len(below)) < 20 and 0 < int(above) < int(below)):
            return None
        self.place += length
        return Fraction(int(above), int(below))

    def symbol(self, name: str) -> Tree:
        """A variable with its index and primes; e and i are the constants; f(x) is one value of an unknown function."""
        if self.takes("_"):
            name += "_" + self.written()
        while self.takes("'"):
            name += "'"
        if name in ("e", "i"):
            return ("const", name)
        if name.rstrip("'") in ("f", "g", "h") and self.sign is not None and self.sign.text == "(" and not self.sign.spaced:
            return ("sym", f"{name}({self.written()})")
        return ("sym", name)

    def written(self) -> str:
        """The letters of the next sign or group, as they stand."""
        first = self.next()
        if first.text not in ("{", "("):
            return first.text
        closing, depth, inside = _CLOSING[first.text], 1, ""
        while depth:
            sign = self.next()
            depth += (sign.text == first.text) - (sign.text == closing)
            inside += sign.text if depth else ""
        return inside

    def argument(self) -> Tree:
        r"""What a command takes: a group, or the one sign behind it (\frac12, \sqrt3)."""
        sign = self.sign
        if sign is not None and sign.text == "{":
            return self.group()
        if sign is not None and sign.kind == "num" and len(sign.text) > 1 and sign.text.isdigit():
            self.signs[self.place] = Token("num", sign.text[1:], False)
            return ("num", Fraction(sign.text[0]))
        return self.atom()

    def command(self) -> Tree:
        sign = self.next()
        name = sign.text[1:]
        if sign.text in _STARTS:
            return _STARTS[sign.text](self)
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
        if name in GREEK:
            return self.symbol(name)
        if name in FUNCTIONS:
            return self.call(name)
        if sign.text in _ACCENTS:
            return self.symbol(f"{name} {self.written()}")
        raise Unreadable(f"{sign.text} is unknown")

    def fraction(self) -> Tree:
        above = self.argument()
        return ("div", above, self.argument())

    def root(self) -> Tree:
        index: Tree = ("num", Fraction(2))
        if self.sign is not None and self.sign.text == "[":
            index = self.group()
        return ("root", index, self.argument())

    def binomial(self) -> Tree:
        above = self.argument()
        return ("choose", above, self.argument())

    def rounded(self) -> Tree:
        self.place -= 1
        name = "floor" if self.signs[self.place].text == r"\lfloor" else "ceil"
        return ("call", name, self.group())

    def call(self, name: str) -> Tree:
        """A function with its argument; without brackets that reaches to the next sign of sum or the next function."""
        power = base = None
        if name == "sqrt":
            return self.root()
        if name in ("max", "min", "gcd", "lcm"):
            return ("pick", name, self.several())
        for _ in range(2):
            if self.takes("_"):
                base = self.raised()
            elif self.takes("^"):
                power = self.raised()
        if self.sign is not None and self.sign.text in ("(", "{", "["):
            inside = self.group()
        else:
            inside = self.negated()
            factors = [inside]
            while self.begins(inside_call=True) and not (self.sign and self.sign.text == "("):
                factors.append(self.factor())
            inside = factors[0] if len(factors) == 1 else ("mul", tuple(factors))
        return _called(name, inside, power, base)

    def several(self) -> tuple[Tree, ...]:
        r"""What stands between commas in the brackets that open here: (3, 5), \{3, 5\}."""
        opening = self.next().text
        if opening not in ("(", r"\{"):
            raise Unreadable("a function of several things without brackets")
        found = [self.sum()]
        while self.takes(","):
            found.append(self.sum())
        if not self.takes(_CLOSING[opening]):
            raise Unreadable(f"{opening!r} is not closed")
        return tuple(found)


def _called(name: str, inside: Tree, power: Tree | None, base: Tree | None) -> Tree:
    if name in ("arg", "det", "deg", "dim", "ker", "Re", "Im"):
        raise Unreadable(f"{name} of one thing")
    if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "cot", "sec", "csc"):
        return ("call", "arc" + name, inside)
    if name in ("log", "ln", "lg"):
        tree: Tree = ("log", ("const", "e") if name == "ln" else ("num", Fraction(10)) if name == "lg" else base, inside)
    elif base is not None:
        raise Unreadable(f"{name} has no base")
    else:
        tree = ("root", ("num", Fraction(3)), inside) if name == "cbrt" else ("call", name, inside)
    return tree if power is None else ("pow", tree, power)


_STARTS = {
    r"\frac": _Reader.fraction, r"\sqrt": _Reader.root, r"\binom": _Reader.binomial, r"\lfloor": _Reader.rounded,
    r"\lceil": _Reader.rounded,
}  # fmt: skip
