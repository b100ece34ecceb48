r"""Answers without the decoration that changes no meaning: fonts, spacing, Unicode look-alikes, lead-ins, grouping of digits.

What leaves this page is plain LaTeX-like text for `math_lex`: one spelling per sign, `\text{...}` only around words, numbers without
grouping marks wherever the mark cannot be anything else.
"""

from __future__ import annotations

import re
import unicodedata

from afterbase.rewards.math_chinese import in_digits

_SIGNS = {
    "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ",
    "Ø": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "≈": r"\approx ", "≅": r"\cong ", "→": r"\to ", "∧": r"\land ",
    "∨": r"\lor ", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "′": "'",
    "’": "'", "∠": r"\angle ", "△": r"\triangle ", "∖": r"\setminus ", "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
    "∶": ":", "⁄": "/", "∕": "/", "“": '"', "”": '"', "∣": "|", "∤": r"\nmid ", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ",
    "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ",
    "≡": r"\equiv ", "∥": r"\parallel ", "⊥": r"\perp ", "。": ".", "、": ", ", "；": ";", "٬": "",
}  # fmt: skip
_UNICODE = str.maketrans(_SIGNS)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_RAISED = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = re.compile(f"[{_SUBSCRIPTS}]+")
_PLAIN = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789+-n0123456789")
_VULGAR = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_ROOTS = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z])?")
_ROOT_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}

_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("`", "`"), ('"', '"'))
_STOPS = frozenset(".,;。")
_LEADS = re.compile(
    r"""\A\s*(?:
        (?:so|thus|hence|therefore|\\therefore|∴|故|所以|因此|则|即|解得|解[:：]|可得)[\s,:：，]* |
        (?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution|value|root|ans)s?\s*(?:is\b|are\b|[:=：])[\s:]* |
        \\text\s*\{\s*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution|value|root)s?\s*(?:is|are|:)?\s*:?\s*\} |
        (?:最终|最后|正确)?(?:答案|结果|答)\s*(?:是|为|应为|应该是|等于|[:：])[\s:：]* |
        (?:[㐀-鿿](?<![不非否没约])){1,12}(?:是|为|等于)\s?(?=[-\d\\(])(?!.*[是为]) |
        (?:共有|一共有|一共|总共|共|等于|约为)(?=\s*[\d$\\]) |
        (?:it|there)\s+(?:is|are)\s+(?=[-$\\(\d]) | =\s* | \\implies\b | \\Rightarrow\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)

_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut|strut|phantom\s*-?|null)(?![A-Za-z])")
_THIN = re.compile(r"\\!|\\(?:text)?color\s*\{[^{}]*\}|\\hspace\*?\{[^{}]*\}|\\vspace\*?\{[^{}]*\}")
_SPACES = re.compile(r"\\q?quad(?![A-Za-z])|(?<!\\)\\[,;: >]|(?<!\\)~|\s+")  # not the break of a matrix row, \\ before a space
_EXPLICIT_GROUP = re.compile(r"(?<=\d)(?:\{,\}|\{\\,\}|,\\!|\\!,|\\!,\\!|\\,(?=\d{3}(?!\d)))\s*(?=\d)")
_FONTS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|mathcal|boldsymbol|bm|pmb|mbox"
    r"|hbox|operatorname\*?|emph|underline|rm|bf|it)\s*\{([^{}]*)\}"
)
_OLD_FONTS = re.compile(r"\\(?:rm|bf|it|cal|sf|tt)(?![A-Za-z])\s*")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_SYNONYMS = {
    r"\leq": r"\le", r"\geq": r"\ge", r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\leqq": r"\le", r"\geqq": r"\ge", r"\neq": r"\ne",
    r"\lt": "<", r"\gt": ">", r"\varnothing": r"\emptyset", r"\degree": r"^\circ", r"\degrees": r"^\circ", r"\lbrace": r"\{",
    r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|",
    r"\backslash": r"\setminus",
    r"\ast": "*", r"\vee": r"\lor", r"\wedge": r"\land", r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\varphi": r"\phi",
    r"\simeq": r"\approx",
    r"\doteq": r"\approx", r"\R": r"\mathbb{R}", r"\Reals": r"\mathbb{R}", r"\reals": r"\mathbb{R}", r"\colon": ":", r"\percent": "%",
    r"\prime": "'", r"\imath": "i", r"\varepsilon": r"\epsilon", r"\dotsc": r"\ldots", r"\dots": r"\ldots", r"\cdots": r"\ldots",
    r"\dotsb": r"\ldots", r"\smallsetminus": r"\setminus", r"\ohm": r"\Omega", r"\bullet": r"\cdot", r"\lang": r"\langle",
    r"\rang": r"\rangle",
}  # fmt: skip
_COMMANDS = re.compile(r"\\[A-Za-z]+")
_PERCENT = re.compile(
    r"\\%|\s*(?:\\text\s*\{)\s*(?:\\?%|per\s?cent|percentage points?)\s*\}|(?<=[\d})])\s*(?:per\s?cent|percentage points?)\b", re.I
)
_DEGREES = re.compile(
    r"\^\s*\{\s*\\circ\s*\}|\s*(?:\\text\s*\{)\s*(?:deg(?:ree)?s?\.?|度)\s*\}|(?<=[\d})])\s*(?:deg(?:ree)?s?\b|度(?!电))", re.I
)
_CELSIUS = re.compile(
    r"\^\\circ\s*(?:\\text\{)?\s*([CF])\s*\}?(?![A-Za-z])|(?:\^\\circ|\bdegrees)?\s*(celsius|fahrenheit)\b|摄氏度|℃", re.IGNORECASE
)
_TEN_POWER = re.compile(r"(?<=\d)\s*[xX*]\s*(?=10\s*\^)")
_E_NOTATION = re.compile(r"(?<![A-Za-z\\])(\d(?:[\d.]*))[eE]([+-]?\d{1,5})(?![\d.A-Za-z])")
_UNIT_POWERS = re.compile(r"\\(?:mathrm|text|rm)\s*\{([A-Za-z][A-Za-z\s]*\^(?:[A-Za-z^\s\d]|\{-?\d\})*)\}")  # \mathrm{m s^{-1}}
_UNIT_FRACTION = re.compile(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}")
_WORD = re.compile(r"[A-Za-z]+")
_EQUALS = re.compile(r"\\text\s*\{\s*(?:is equal to|equals)\s*\}|(?<![A-Za-z])(?:is equal to|equals)(?![A-Za-z])")
_EACH = re.compile(r"\A每\s?([㐀-鿿]{1,3})\s?(-?\d+(?:\.\d+)?)\s?([㐀-鿿]{1,4}|[A-Za-z]{1,4})\Z")  # 每小时90千米 as 90千米/小时
_RUNS = re.compile(r"\s{2,}")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}")
_PYTHON_POWER = re.compile(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({\-])")

_SCALES = {
    "hundred": 2,
    "thousand": 3,
    "million": 6,
    "billion": 9,
    "trillion": 12,
    "万亿": 12,
    "百万": 6,
    "千万": 7,
    "百": 2,
    "千": 3,
    "万": 4,
    "亿": 8,
}
_SCALE = re.compile(
    r"(?<=[\d})])\s*(?:\\text\s*\{\s*)?"
    r"(?:(hundred|thousand|million|billion|trillion|dozen)s?(?![A-Za-z])|(万亿|百万|千万|百(?!分)|千(?![米克瓦卡])|万|亿))(\s*\})?",
    re.IGNORECASE,
)


def tidy(answer: str) -> str:
    r"""The same answer in one spelling, e.g. tidy(r"$\dfrac12$.") is r"\frac{1}{2}"."""
    answer = _from_unicode(answer)
    answer = re.sub(r"\\(?:boxed|fbox)\s*\{", "{", answer)
    for _ in range(4):  # four layers of wrapping are more than anybody writes
        before, answer = answer, _LEADS.sub("", _unwrapped(answer))
        if answer == before:
            break
    answer = _spelled(answer)
    answer = _unwrapped(in_digits(_LEADS.sub("", answer))).strip()
    return _EACH.sub(r"\2\3/\1", answer)


def ungrouped(text: str) -> str:
    """Digits without the marks that group them ("1,200", "1 200", "12,34,567", "1.234.567,8"), where the mark is no comma of a list."""
    listed = ", " in text or ";" in text  # then a comma without a space groups digits, even inside brackets
    return _GROUPED.sub(lambda match: _joined(match[0]) if listed or not _in_brackets(text, match.start()) else match[0], text)


_GROUPED = re.compile(
    r"(?<![\d.,_^])(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?![\d ]?\d)|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])"
    r"|\d{1,3}(?:'\d{3})+(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\d.])|\d{1,3}(?:\.\d{3})+,\d{1,2}(?![\d,.]))"
)


def _joined(digits: str) -> str:
    european = re.fullmatch(r"(\d{1,3}(?:\.\d{3})+)(?:,(\d+))?", digits)
    if european:
        return european[1].replace(".", "") + (f".{european[2]}" if european[2] else "")
    return re.sub(r"[, ']", "", digits)


def _in_brackets(text: str, place: int) -> bool:
    before = text[:place]
    return any(before.count(left) > before.count(right) for left, right in (("(", ")"), ("[", "]"), (r"\{", r"\}")))


def _from_unicode(text: str) -> str:
    text = _VULGAR.sub(lambda match: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", match[0]).split("⁄")), text)
    text = _RAISED.sub(lambda match: "^{" + match[0].translate(_PLAIN) + "}", text)
    text = _LOWERED.sub(lambda match: "_{" + match[0].translate(_PLAIN) + "}", text)
    text = text.replace("℃", r"^\circ C").translate(_UNICODE)
    usual = unicodedata.normalize("NFKC", text)
    text = usual.translate(_UNICODE) if len(usual) <= 2 * len(text) else text  # one Arabic sign can become eighteen
    return _ROOTS.sub(lambda match: rf"\sqrt{_ROOT_INDEX[match[1]]}" + (f"{{{match[2]}}}" if match[2] else ""), text)


def _unwrapped(answer: str) -> str:
    """Without sentence punctuation at the end and without the mathematics, bold or quotation marks around all of it."""
    for _ in range(4):
        before = answer
        answer = _without_stop(answer.strip())
        for left, right in _WRAPPERS:
            inner = answer[len(left) : -len(right)]
            if (
                len(answer) > len(left + right)
                and answer.startswith(left)
                and answer.endswith(right)
                and left not in inner
                and right not in inner
            ):
                answer = inner.strip()
        if answer == before:
            break
    return answer


def _without_stop(text: str) -> str:
    """Without one sign that ends a sentence: one, since three dots leave something out."""
    return text[:-1].rstrip() if text[-1:] in _STOPS and text[-2:-1] not in (".", "\\") else text


def _spelled(text: str) -> str:
    """One spelling for every sign."""
    text = _EXPLICIT_GROUP.sub("", text).replace("{:}", ":")
    text = _THIN.sub("", text)
    text = _SIZES.sub("", text)
    text = _CELSIUS.sub(
        lambda match: r"\text{ fahrenheit}" if (match[1] or match[2] or "").upper().startswith("F") else r"\text{ celsius}", text
    )
    text = _FRACTIONS.sub(r"\\frac", text)
    text = _COMMANDS.sub(lambda match: _SYNONYMS.get(match[0], match[0]) + ("" if match[0] not in _SYNONYMS else " "), text)
    text = _SPACES.sub(" ", text)
    text = _PERCENT.sub("%", text)
    text = _DEGREES.sub(r"^\\circ ", text)
    text = _UNIT_POWERS.sub(lambda match: _WORD.sub(r"\\text{\g<0>}", match[1]), text)
    text = _UNIT_FRACTION.sub(r"\\text{\1/\2}", _plain_fonts(text))
    text = _EQUALS.sub("=", text)
    text = _money(text)
    text = _SCALE.sub(_scaled, text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _PYTHON_POWER.sub("^", text)
    text = _E_NOTATION.sub(r"\1\\times 10^{\2}", _TEN_POWER.sub(r"\\times ", text))
    return _RUNS.sub(" ", _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)).strip()


def _plain_fonts(text: str) -> str:
    r"""Fonts taken off mathematics; words come into \text{...}."""
    text = _OLD_FONTS.sub("", text)
    for _ in range(3):  # a font in a font in a font
        before, text = text, _FONTS.sub(_content, text)
        if text == before:
            break
    return text.replace("\x00", r"\text{").replace("\x01", "}")


def _content(match: re.Match[str]) -> str:
    inside = match[1].replace("$", "")
    bare = inside.strip()
    if re.search(r"\d|[=<>|+*/\\,;:()\[\]&]|\b(?:or|and)\b", bare) or not bare or "\x00" in bare:  # mathematics, or a list of words
        return re.sub(r"^\s*|\s*$", " ", inside) if inside else ""
    if len(bare) == 1 and bare.isascii() and not match[0].startswith((r"\text", r"\mbox", r"\mathrm")):
        return bare
    if bare in ("i", "e") and match[0].startswith(r"\mathrm"):
        return bare
    if bare.lower() in _FUNCTIONS and match[0].startswith((r"\math", r"\op")):
        return f"\\{_FUNCTIONS[bare.lower()]} "
    return f" \x00{bare}\x01" if inside[:1] == " " else f"\x00{bare}\x01"


_FUNCTIONS = {
    name: name
    for name in [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "ln",
        "log",
        "lg",
        "exp",
        "cis",
        "max",
        "min",
        "gcd",
        "lcm",
    ]
}
_FUNCTIONS |= {"sgn": "sgn", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}


def _money(text: str) -> str:
    r"""Currency signs as \dollar and the like; what else is left of $ only switches to mathematics and says nothing."""
    text = re.sub(r"\\\$|(?:US|HK|NT)\s*\\?\$|(?<![\w}$)])\$(?=\s*-?[\d.])(?![^$]*\$)", r"\\dollar ", text)
    return re.sub(r"\$", " ", text)


def _scaled(match: re.Match[str]) -> str:
    r""" "2 million" as 2\times 10^{6}; the words are arithmetic, not a unit."""
    word = (match[1] or match[2]).lower()
    opened, closed = "{" in match[0], bool(match[3])
    power = r"\times 12 " if word == "dozen" else rf"\times 10^{{{_SCALES[word]}}} "
    return power + (r"\text{" if opened and not closed else "}" if closed and not opened else "")
