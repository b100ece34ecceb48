"""Everyday questions that need no reasoning: facts and manners, the non-reasoning side of the data.  [V3 5.1]"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima", "Kenya": "Nairobi", "Norway": "Oslo",
    "Chile": "Santiago", "India": "New Delhi", "Cuba": "Havana", "Greece": "Athens", "Iran": "Tehran", "Nepal": "Kathmandu",
    "Ghana": "Accra", "Italy": "Rome", "China": "Beijing", "Spain": "Madrid",
}  # fmt: skip
SOUNDS = {
    "dog": "barks",
    "cat": "meows",
    "cow": "moos",
    "duck": "quacks",
    "lion": "roars",
    "owl": "hoots",
    "frog": "croaks",
    "bee": "buzzes",
}
NAMES = ("Ada", "Ben", "Chen", "Dora", "Eli", "Fay", "Gus", "Hana", "Ivo", "June", "Kofi", "Lena", "Mei", "Nils", "Omar", "Pia")

_ASK_CAPITAL = (
    "What is the capital of {}?",
    "Which city is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital city of {}.",
)
_ASK_SOUND = ("What does a {} do when it is loud?", "What sound does a {} make?", "Tell me the sound of a {}.", "How does a {} sound?")
_MANNERS = {
    "Say hello to {}.": "Hello, {}! Nice to meet you.",
    "Thank {} for the help.": "Thank you, {}, for your help!",
    "Wish {} a good night.": "Good night, {}. Sleep well!",
    "Say goodbye to {}.": "Goodbye, {}! See you soon.",
    "Invite {} to dinner.": "Dear {}, please come to dinner with us.",
    "Congratulate {}.": "Congratulations, {}! Well done.",
}


def facts(rng: Random) -> dict[str, Any]:
    """A capital or an animal's sound, asked in one of several ways."""
    table, ways = rng.choice(((CAPITALS, _ASK_CAPITAL), (SOUNDS, _ASK_SOUND)))
    key = rng.choice(tuple(table))
    return {"question": rng.choice(ways).format(key), "answer": table[key], "metadata": {}}


def manners(rng: Random) -> dict[str, Any]:
    """A polite sentence to somebody."""
    ask, reply = rng.choice(tuple(_MANNERS.items()))
    name = rng.choice(NAMES)
    return {"question": ask.format(name), "answer": reply.format(name), "metadata": {}}


EVERYDAY: dict[str, Callable[[Random], dict[str, Any]]] = {"facts": facts, "manners": manners}
"""Our own generators by name."""
