"""A guessing game as an environment: the model asks "is it 12?" in as many turns as it needs, and is told higher, lower or right.

In a recipe, run from this directory:

    template = "chat"
    environment = { kind = "custom", path = "guessing_game:GuessingGame", settings = { highest = 50 }, max_turns = 10 }

and a JSONL file of prompts such as {"id": "game-1", "question": "I think of a number from 1 to 50. Guess.", "answer": "37"}; where
a prompt has no answer the game draws one. A reward function finds what was remembered in the column `environment`, for example
{"number": 37, "guesses": [25, 37]}.

    python examples/guessing_game.py        (plays one game by halving, without a model)
"""

import asyncio
import random
import re

from afterbase.records import Message, Prompt
from afterbase.rollouts.turns import Env, Reply, Turn


class GuessingGame(Env):
    """Thinks of a number for each rollout."""

    def __init__(self, highest: int = 100) -> None:
        self.highest = highest

    async def reply(self, turn: Turn) -> Reply | None:
        """Higher or lower; None once it is right."""
        drawn = random.Random(turn.seed).randint(1, self.highest)  # the same in every run of the recipe
        number = turn.memory.setdefault("number", int(turn.prompt.answer or drawn))
        guesses = [int(guess) for guess in re.findall(r"\d{1,9}", turn.text)[-1:]]
        turn.memory["guesses"] = turn.memory.get("guesses", []) + guesses
        if guesses == [number]:
            return None
        return Reply("Say a number." if not guesses else "higher" if guesses[0] < number else "lower")


async def play(game: GuessingGame, prompt: Prompt) -> dict:
    """A game with somebody who always guesses the middle."""
    low, high, memory = 1, game.highest, {}
    for number in range(1, game.highest + 1):
        middle = (low + high) // 2
        said = f"Is it {middle}?"
        reply = await game.reply(Turn(prompt, said, (Message("assistant", said),), number, True, 7, memory))
        if reply is None:
            return memory
        low, high = (middle + 1, high) if reply.text == "higher" else (low, middle - 1)
    return memory


if __name__ == "__main__":
    print(asyncio.run(play(GuessingGame(100), Prompt("game-1", (Message("user", "Guess."),), answer="37"))))
