"""What an equation says: which name gets which value, and what its two sides differ by."""

from __future__ import annotations

import re
from collections.abc import Sequence

from afterbase.rewards.math_kinds import Chain, Items, Kind, Value
from afterbase.rewards.math_tree import Tree, symbols

_INDEX = r"(?:_\{?[\w+-]+\}?|_\{?\\(?:max|min)\}?|_\{\\text\{[^{}]*\}\}|_\\text\{[^{}]*\})?"
_NAME = re.compile(
    rf"\\?[A-Za-z]{_INDEX}'*(?:\^\{{?-1\}}?)?(?:\([^()]*\))?|[A-Z]{{1,5}}{_INDEX}|\\(?!frac|sqrt|text|sin|cos|tan|log|ln)[a-zA-Z]+{_INDEX}"
    r"|m?\\angle[A-Z]+|\|[A-Z]{2}\||\\(?:text|overline|vec|overrightarrow|bar|hat|mathbb)\{.*\}(?:_\{?\w+\}?)?"
    r"|[A-Za-z]{4,}|\\frac\{d\w*\}\{d\w+\}"
    r"|\((?:[A-Za-z\\]+,)+[A-Za-z\\]+\)|S_\{?\\triangle[A-Z ]*\}?|(?=\w*[一-鿿])\w+|\\triangle[A-Z]+|[A-Z](?:\\(?:c[au]p|setminus)[A-Z])+"
)


def is_equation(chain: Chain) -> bool:
    """Whether its signs are all = (or roughly so)."""
    return all(sign in ("=", r"\approx") for sign in chain.signs)


def is_name(side: str) -> bool:
    """Whether a side is only a name for what is sought: x, f(x), AB, the area."""
    return bool(_NAME.fullmatch(side)) and side not in ("e", "i", r"\pi", r"\infty")


def is_function(side: str) -> bool:
    """Whether a name is a function's, such as f(x)."""
    return bool(re.fullmatch(rf"[A-Za-z]{_INDEX}'*\([^()]*\)", side))


def reversed_name(chain: Chain) -> Chain:
    """5 = x as x = 5; every other chain as it is."""
    if is_equation(chain) and not is_name(chain.names[0]) and is_name(chain.names[-1]):
        return Chain(chain.signs[::-1], chain.sides[::-1], chain.names[::-1])
    return chain


def diff(chain: Chain) -> Tree | None:
    """Left side minus right side; None when there are more sides, or sides that are no expressions."""
    if len(chain.sides) != 2 or not all(isinstance(side, Value) for side in chain.sides):
        return None
    left, right = chain.sides
    return ("add", (left.tree, ("neg", right.tree)))


def assignments(items: Items) -> dict[str, Kind]:
    """Values by name when every item is an equation for another name; empty else, also for x_1 and x_2, two values of x."""
    chains = [reversed_name(item) for item in items.items if isinstance(item, Chain) and is_equation(item)]
    if len(chains) < max(len(items.items), 2) or any(not is_name(chain.names[0]) for chain in chains):
        return {}
    stems = [re.sub(r"_.*", "", chain.names[0]) for chain in chains]
    found = {chain.names[0]: chain.sides[-1] for chain in chains}
    return found if len(set(stems)) == len(chains) else {}


def order(labelled: dict[str, Kind]) -> list[str]:
    """The names in the order in which a point lists them: the alphabet's."""
    return sorted(labelled)


def plain(items: Sequence[Kind]) -> list[Kind]:
    """x = 1 as 1, when the items are values of one name; other items as they are."""
    chains = [reversed_name(item) for item in items if isinstance(item, Chain) and is_equation(item)]
    stems = {re.sub(r"_.*", "", chain.names[0]) for chain in chains}
    if len(stems) != 1 or not is_name(chains[0].names[0]) or any(symbols_of(chain.sides[-1]) & stems for chain in chains):
        return list(items)
    return [reversed_name(item).sides[-1] if isinstance(item, Chain) and is_equation(item) else item for item in items]


def symbols_of(kind: Kind) -> frozenset[str]:
    """The variables of an expression; none for any other kind."""
    return symbols(kind.tree) if isinstance(kind, Value) else frozenset()
