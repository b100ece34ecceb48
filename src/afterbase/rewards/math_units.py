r"""Units behind (and currencies before) a value: "6\sqrt2 \text{ cm}^2", "18 dollars", "60 km/h", "2 hours 30 minutes", "5千克".

A known unit has a dimension and a size, so that 500 cm is 5 m and 5 cm is not 5 m. Other words ("eggs", "个") only label what was
counted: they are dropped and never compared, since "5 apples" and "5 fruits" may mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A measure, e.g. of "km/h" Unit((("length", 1), ("time", -1)), Fraction(5, 18))."""

    dimension: Dimension
    """Powers of the base dimensions, sorted; () for a label."""
    size: Fraction
    """How many base units (metre, second, gram, dollar, ...) one of it is."""

    @property
    def known(self) -> bool:
        """Whether it is more than a label."""
        return bool(self.dimension)


LABEL = Unit((), Fraction(1))

# dimension: size in base units, then the names; a plural s is understood.
_TABLE = {
    "length": """
        1 m meter metre 米 公尺; 1/1000 mm millimeter millimetre 毫米; 1/100 cm centimeter centimetre 厘米 公分;
        1/10 dm decimeter 分米; 1000 km kilometer kilometre 千米 公里; 1/1000000 μm um micrometer micron 微米;
        1/1000000000 nm nanometer 纳米; 0.0254 in inch inche 英寸; 0.3048 ft foot feet 英尺; 0.9144 yd yard 码;
        1609.344 mi mile 英里; 500 里; 1/3 尺""",
    "time": """
        1 s sec second 秒 秒钟; 1/1000 ms millisecond 毫秒; 60 min minute 分钟 分; 3600 h hr hour 小时 时; 86400 d day 天 日;
        604800 wk week 周 星期; 31556952 yr year 年 岁; 2629746 month 月 个月""",
    "mass": """
        1 g gram 克; 1/1000 mg milligram 毫克; 1000 kg kilogram kilo 千克 公斤; 1000000 t ton tonne 吨; 500 斤;
        453.59237 lb pound 磅; 28.349523125 oz ounce 盎司""",
    "length^3": """
        0.001 L l liter litre 升; 0.000001 mL ml cc milliliter millilitre 毫升; 0.003785411784 gal gallon 加仑;
        0.000946352946 qt quart; 0.000473176473 pt pint; 0.0002365882365 cup""",
    "length^2": "4046.8564224 acre 英亩; 10000 ha hectare 公顷",
    "dollar": r"1 \dollar $ dollar buck USD usd 美元 美金; 1/100 cent ¢ 美分",
    "euro": r"1 \euro € euro EUR eur 欧元",
    "sterling": r"1 \pounds £ GBP 英镑; 1/100 pence",
    "yuan": "1 元 人民币 yuan RMB rmb CNY 块 块钱; 1/10 角 毛; 1/100 分钱",
    "yen": r"1 \yen ¥ yen JPY 日元",
    "rupee": "1 ₹ rupee INR Rs",
    "force": "1 N newton 牛 牛顿",
    "energy": "1 J joule 焦 焦耳; 1000 kJ kilojoule 千焦; 4.184 cal calorie; 4184 kcal 千卡; 3600000 kWh",
    "power": "1 W watt 瓦; 1000 kW kilowatt 千瓦",
    "voltage": "1 V volt 伏 伏特",
    "current": "1 A amp ampere 安 安培",
    "resistance": r"1 \Omega ohm 欧姆",
    "frequency": "1 Hz hertz 赫兹; 1000 kHz; 1000000 MHz",
    "pressure": "1 Pa pascal 帕; 1000 kPa; 101325 atm",
    "amount": "1 mol mole 摩尔",
    "kelvin": "1 K kelvin",
    "celsius": "1 celsius",
    "fahrenheit": "1 fahrenheit",
    "bit": "1 bit; 8 byte B",
    "angle": "1 rad radian 弧度",
}


def _known() -> dict[str, Unit]:
    known = {}
    for dimension, row in _TABLE.items():
        for group in row.split(";"):
            size, *names = group.split()
            base, _, power = dimension.partition("^")
            known |= {name: Unit(((base, int(power or 1)),), Fraction(size)) for name in names}
    known["mph"] = Unit((("length", 1), ("time", -1)), Fraction("0.44704"))
    known["kph"] = known["kmh"] = Unit((("length", 1), ("time", -1)), Fraction(5, 18))
    return known


_KNOWN = _known()
_CURRENCY = re.compile(r"\s*(-?)\s*(\\dollar|\\euro|\\pounds|\\yen|USD|EUR|GBP|RMB|CNY|Rs\.?|₹)\s*(?=[-\d.\\(])")
_FLAT = re.compile(r"\\text\s*\{([^{}]*)\}")
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_PIECE = re.compile(r"([A-Za-zμ¢$€£¥₹]+|\\[A-Za-z]+|[㐀-鿿]+)\.?\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|([/*·.-]|\\cdot|\\times)|\s+")
_TAIL = re.compile(  # possessive (++): a word that could be cut anywhere would be tried in 2^letters ways
    r"(?P<value>.*?[\w}\])!%|'])(?P<unit>(?:\s*\\text\s*\{[^{}]*\}|\s*\\(?:dollar|euro|pounds|yen)(?![A-Za-z])|\s*[㐀-鿿]++|\s*(?<=[\d\s)}\]])(?P<bare>[A-Za-z]++))"
    r"(?:\s*\^\s*\{?-?\d\}?|\s*[/·]\s*|\s*\\cdot\s*|\s++|\\text\s*\{[^{}]*\}|[A-Za-z.]++|[㐀-鿿]++|\\dollar|\([^()]*\))*+)",
    re.DOTALL,
)
_ODD_WORDS = """
    or not about approximately roughly over half halves third thirds fourth quarter quarters fifth fifths tenth tenths squared
    cubed so maybe
    times plus minus pi sqrt root sin cos tan log ln exp mod factorial radian if where when more less least most than but except
    only infinity
    almost nearly between either neither possibly otherwise am pm noon midnight oclock respectively remainder base and to is are equals
    或 不 约 大约 左右 以上 以下 至少 至多 最多 余 多 到 和 且 是 非 可能 除 除以 乘 加 减
"""
_ODD = frozenset(_ODD_WORDS.split())
_NUMERALS = re.compile("[〇零一二两三四五六七八九十百千万亿分之点]+(?<!分)")
_ALLOWED_IN = {"per", "of", "each", "a", "an", "the", "every"}


def currency(text: str) -> tuple[Unit, str] | None:
    r"""The currency that stands before a number and the number, e.g. currency(r"-\dollar 5") is (dollars, "-5")."""
    match = _CURRENCY.match(text)
    if not match:
        return None
    return _KNOWN.get(match[2].rstrip("."), _KNOWN["rupee"]), match[1] + text[match.end() :]


def split_unit(text: str) -> tuple[str, Unit] | None:
    """A value and the unit behind it; None when nothing behind it can be a unit."""
    match = _TAIL.fullmatch(text)
    if not match:
        return None
    value, tail = match["value"].strip(), match["unit"]
    words = _FLAT.sub(r" \1 ", tail).strip()
    bare = match["bare"] is not None and "\\text" not in tail
    if not words or not value or is_odd(words) or (bare and not _unit_like(value, tail, words)):
        return None
    unit = measure(words)
    return value, unit


def measure(words: str) -> Unit:
    """The unit that these words name; a label when they name none that is known."""
    words = re.sub(r"\(.*?\)", " ", words).strip(" .")
    words = re.sub(r"每(?=[一-鿿])", "/", words)
    raised, sign, pending = {}, 1, 1
    size = Fraction(1)
    for match in _PIECE.finditer(words.replace("每", "/")):
        name, power, sign_text = match.groups()
        if sign_text == "/" or name == "per":
            sign = -1
            continue
        if name is None or name in _ALLOWED_IN:
            continue
        for prefix, exponent in _POWER_WORDS.items():
            if name.lower() == prefix or (name.startswith(prefix) and not name.isascii()):
                pending, name = exponent, name[len(prefix) :]
                break
        if not name:
            continue
        unit = lookup(name)
        if unit is None:
            return LABEL
        exponent = sign * pending * int(power or 1)
        pending = 1
        size *= unit.size**exponent
        for dimension, one in unit.dimension:
            raised[dimension] = raised.get(dimension, 0) + one * exponent
    return Unit(tuple(sorted((dimension, power) for dimension, power in raised.items() if power)), size) if raised else LABEL


def lookup(name: str) -> Unit | None:
    """A known unit by one of its names, singular or plural."""
    for spelling in (name, name.lower(), name.lower().removesuffix("s"), name.removesuffix("钱")):
        if spelling in _KNOWN and (len(name) > 1 or spelling == name):
            return _KNOWN[spelling]
    return None


def is_odd(words: str) -> bool:
    """Whether any of these words may change the number: arithmetic, a choice, a hedge."""
    pieces = re.findall(r"[A-Za-z]+|[㐀-鿿]+", words.lower().replace(".", ""))
    return any(
        bool(piece in _ODD or _NUMERALS.fullmatch(piece) or any(odd in piece for odd in _ODD if not odd.isascii())) for piece in pieces
    )


def _unit_like(value: str, tail: str, words: str) -> bool:
    """Whether bare letters behind a value are a unit and no variables: "5 eggs" and "5cm" are, "5ab" and "5x" are not."""
    first = re.match(r"[A-Za-z]+", words)
    if first is None:
        return True
    known = lookup(first[0]) is not None
    if len(first[0]) == 1:  # "5 m" may be one, "5m" may not, "5 m/s" is
        alone = tail[:1].isspace() and bool(re.fullmatch(r"[-\d.,/ ]+", value))
        return known and (alone or ("/" in words and "^" not in words[:2] and len(words) > 2))
    number = bool(re.fullmatch(r"[-+\d.,/ ]+|.*[})\]]", value))
    if known or first[0].lower() in _POWER_WORDS:
        return number
    return number and value[-1].isdigit() and tail[:1].isspace() and len(first[0]) > 2
