"""Answers in words: their normal form, the phrases that mean the same, English numbers, times and dates."""

from __future__ import annotations

import re

from afterbase.rewards.math_kinds import Moment

_SYNONYMS = {
    "no solution": """
        no solutions; no real solution; no real solutions; no such; none; there is no solution; there are no solutions; empty set; empty;
        there are no real solutions; no roots; no real roots; no real root; no root; null set; no answer exists; no values; no value;
        no integer solutions; no such number exists; no such integer exists; no intersection; no such values exist; inconsistent;
        no such value exists; has no solution; 无解; 空集; 无实数解; 无实根; 方程无解; 没有解; 不等式无解; 无实数根; 没有实数解""",
    "undefined": """
        does not exist; dne; not defined; d.n.e; doesn't exist; doesnt exist; limit does not exist; do not exist; not exist; is undefined;
        不存在; 无意义; 极限不存在; 没有意义; 无定义""",
    "diverges": "divergent; does not converge; is divergent; series diverges; 发散",
    "converges": "convergent; is convergent; series converges; 收敛",
    "infinitely many": """
        infinitely many solutions; infinite solutions; infinite number of solutions; infinitely many; an infinite number of solutions;
        infinite number; infinitely many real solutions; 无数; 无数个; 无穷多; 无穷多个; 无穷多解; 无数解; 有无数解; 有无穷多解""",
    "real numbers": """
        all real numbers; all reals; all real number; reals; any real number; all real x; every real number; all real values;
        all values of x; all real values of x; set of all real numbers; set of real numbers;
        全体实数; 任意实数; 一切实数; 所有实数; 实数集; 全部实数""",
    "infinity": "infinite; positive infinity; plus infinity; +infinity; 无穷大; 正无穷; 正无穷大; 无穷",
    "negative infinity": "minus infinity; -infinity; 负无穷; 负无穷大",
    "yes": "true; correct; right; 是; 是的; 对; 正确; 成立; 能; 可以; 会; 真; 真命题",
    "no": "false; incorrect; 否; 不是; 错; 错误; 不成立; 不能; 不可以; 不会; 不对; 假; 假命题; 不正确",
    "equal": "相等; they are equal; both are equal; same; 一样",
    "even": "偶函数; even function; 偶数; even number; is even",
    "odd": "奇函数; odd function; 奇数; odd number; is odd",
    "increasing": "increases; is increasing; 递增; 单调递增; 增函数",
    "decreasing": "decreases; is decreasing; 递减; 单调递减; 减函数",
    "monday": "mon; 星期一; 周一",
    "tuesday": "tue; tues; 星期二; 周二",
    "wednesday": "wed; 星期三; 周三",
    "thursday": "thu; thurs; 星期四; 周四",
    "friday": "fri; 星期五; 周五",
    "saturday": "sat; 星期六; 周六",
    "sunday": "sun; 星期日; 星期天; 周日; 周天",
}
_CANONICAL = {phrase: name for name, row in _SYNONYMS.items() for phrase in [name, *(" ".join(part.split()) for part in row.split(";"))]}
SPECIAL = frozenset(_SYNONYMS)
_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
_TENS = """twenty thirty forty fifty sixty seventy eighty ninety"""
_COUNTS = {word: value for value, word in enumerate(_ONES.split())} | {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
    "hundredth": 100,
}
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\S)|^(?:it|this|there|he|she|they)\s+(?:is|are|was)\s+", re.IGNORECASE)
_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
_MONTH = "|".join(f"{name}|{name[:3]}|{name[:4]}" for name in _MONTHS)
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*([ap])\.?\s*m\.?", re.IGNORECASE)
_BARE_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_CHINESE_TIME = re.compile(r"(上午|下午|晚上|早上|凌晨|中午)?\s*(\d{1,2})\s*(?:[:点时])\s*(?:(\d{1,2})\s*分?|(半)|整)?")
_DATES = (
    re.compile(rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(?P<year>\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?(?:\s*,?\s*(?P<year>\d{{4}}))?", re.IGNORECASE),
    re.compile(r"(?:(?P<year>\d{4})\s*年\s*)?(?P<month>\d{1,2})\s*月\s*(?P<day>\d{1,2})\s*[日号]"),
    re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"),
)


def flat(text: str) -> str:
    r"""Text without \text{...} and superfluous spaces."""
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).replace("\\ ", " ").split())


def normal(text: str) -> str:
    """Lower case, without articles, quotes and closing punctuation; phrases that mean the same get the same name."""
    bare = flat(text).casefold().strip(" .,;:!?\"'`*。，！？")
    bare = " ".join(re.sub(r"[-_]", " ", _ARTICLES.sub("", bare)).split()) or bare
    return _CANONICAL.get(bare, bare)


def english_number(text: str) -> str | None:
    """A number in English words as digits, e.g. english_number("twenty-one") is "21" and of "two thirds" "2/3"; None for other words."""
    words = [word for word in re.split(r"[\s-]+", text.casefold().strip()) if word != "and"]
    if not words or len(words) > 12:
        return None
    part = _PARTS.get(words[-1].removesuffix("s") if words[-1] != "halves" else "half")
    if part and len(words) > 1:
        above = 1 if words[:-1] in (["a"], ["one"]) else _count(words[:-1])
        return None if above is None else f"{above}/{part}"
    if part == 2:
        return "1/2"
    value = _count(words)
    return None if value is None else str(value)


def moment(text: str) -> Moment | None:
    """A time of day or a date; None when it is neither. Bare "9:30" is a ratio to some: `clock` reads it where a time is asked."""
    text = flat(text)
    if match := _TIME.fullmatch(text):
        return _time(int(match[1]), match[2], match[3], match[4].lower() + "m")
    if not text.isascii() and (match := _CHINESE_TIME.fullmatch(text)) and (match[1] or "点" in text or re.search("时.*分", text)):
        half = {"上午": "am", "早上": "am", "凌晨": "am", "下午": "pm", "晚上": "pm", "中午": "pm"}.get(match[1], "")
        return _time(int(match[2]), "30" if match[4] else match[3], None, half) if match[1] or "点" in text else None
    for form in _DATES:
        if match := form.fullmatch(text):
            month = match["month"]
            number = int(month) if month.isdigit() else [name[:3] for name in _MONTHS].index(month[:3].lower()) + 1
            return Moment("date", (int(match["year"] or 0), number, int(match["day"])))
    return None


def clock(text: str) -> Moment | None:
    """ "9:30" as a time; None when it cannot be one."""
    match = _BARE_TIME.fullmatch(flat(text))
    return _time(int(match[1]), match[2], match[3], "") if match else None


def chinese_clock(text: str) -> Moment | None:
    """15时30分 as a time, which is a duration elsewhere; None when it cannot be one."""
    match = _CHINESE_TIME.fullmatch(flat(text)) if "时" in text else None
    return _time(int(match[2]), "30" if match[4] else match[3], None, "") if match else None


def _time(hour: int, minute: str | None, second: str | None, half: str) -> Moment | None:
    minutes, seconds = int(minute or 0), int(second or 0)
    if hour > 24 or minutes > 59 or seconds > 59 or (half == "am" and hour > 12):
        return None
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return Moment("time", (hour, minutes, seconds), half or ("pm" if hour > 12 else ""))


def _count(words: list[str]) -> int | None:
    total = section = 0
    for word in words:
        if word in _COUNTS:
            section += _COUNTS[word]
        elif word == "hundred":
            section = (section or 1) * 100
        elif word in _SCALES:
            total, section = total + (section or 1) * _SCALES[word], 0
        else:
            return None
    return total + section
