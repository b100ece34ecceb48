"""A whole GRPO step on one GPU beside TRL's, plain and with colocated vLLM, and what the card allows at best.

    python benchmarks/grpo.py                                   (what TRL and vLLM are installed for; about ten minutes)
    python benchmarks/grpo.py rates afterbase trl --out r.json  (pieces, merged into one file: one machine, one sitting)
    python benchmarks/grpo.py --table --out r.json              (only print what the file holds)

The work: the shape of Qwen2-0.5B with random weights; 32 prompts of 128 tokens x 8 answers of exactly 512, a reward that costs nothing, no
reference model, one update, bfloat16 products. Each side runs in a process of its own and times its steps by itself; the first step warms
up and is left out. TRL's weights, gradients and optimizer state are bfloat16, its fastest setting; afterbase's are float32. Peak memory
is the most that torch had allocated, and the most that was in use on the card (vLLM's memory and every cache included).

Beside each part stands its floor: operations over the rate of a large matrix product, bytes over that of a large copy, both measured here.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from common import HERE, answered, asking, card, held, keep, make_checkpoint, need_cuda, shape, times_faster
from common import piece as run_piece

PIECES = ("rates", "afterbase", "trl", "trl-vllm")
PARTS = ("sample", "judge", "logprob", "update", "rest")
WORK = {"prompts": 32, "group": 8, "prompt_tokens": 128, "new_tokens": 512}


def main() -> None:
    options = asking(__doc__, PIECES)
    options.add_argument("--steps", type=int, default=6, help="steps of each side, the first of which is not counted")
    options.add_argument("--tokens-per-batch", type=int, default=16384, help="afterbase: tokens in one forward and backward pass")
    options.add_argument("--trl-batch", type=int, default=32, help="TRL: sequences in one forward and backward pass")
    options.add_argument("--table", action="store_true", help="run nothing")
    chosen = answered(options, PIECES)
    path = chosen.out or HERE / "results" / f"{card().replace(' ', '-')}.json"
    result = held(path)
    if not chosen.table:
        need_cuda(chosen.rehearse)
        for piece in chosen.pieces or [piece for piece in PIECES if installed(piece)]:
            result["pieces"][piece] = run(piece, chosen)
            result |= {"work": work(chosen.rehearse), "shape": shape(chosen.rehearse)}
            keep(path, {**result, "summary": summary(result)})
    print(table(summary(result)))
    print(f"({path})")


def run(piece: str, chosen: argparse.Namespace) -> dict:
    """One piece in a process of its own: what it prints last."""
    script = {"rates": "rates.py", "afterbase": "grpo_afterbase.py"}.get(piece, "grpo_trl.py")
    with tempfile.TemporaryDirectory() as directory:
        if piece != "rates":
            make_checkpoint(Path(directory), shape(chosen.rehearse))
        settings = {
            "checkpoint": directory, "steps": chosen.steps, "work": work(chosen.rehearse), "vllm": piece == "trl-vllm",
            "tokens_per_batch": chosen.tokens_per_batch, "trl_batch": chosen.trl_batch, "rehearse": chosen.rehearse,
        }  # fmt: skip
        return run_piece(piece, script, settings)


def summary(result: dict) -> dict:
    """Medians of each side's parts beside the floors, and how many times faster afterbase is, with the worst and the best pairing."""
    pieces, found = result["pieces"], {}
    sides = [piece for piece in PIECES[1:] if piece in pieces]
    for side in sides:
        rows = pieces[side]["steps"]
        medians = {part: round(statistics.median(row[part] for row in rows), 4) for part in (*PARTS, "step")}
        found[side] = {**medians, "n": len(rows), **{name: pieces[side][name] for name in ("allocated_gib", "card_gib")}}
    if "rates" in pieces:
        found["floor"] = floor(pieces["rates"], result["work"], result["shape"])
    mine = [row["step"] for row in pieces.get("afterbase", {}).get("steps", [])]
    for side in [side for side in sides if mine and side != "afterbase"]:
        theirs = [row["step"] for row in pieces[side]["steps"]]
        found[f"times faster than {side}"] = times_faster(mine, theirs)
    return found


def floor(rates: dict, work: dict, shape: dict) -> dict[str, float]:
    """Seconds that no program on this card goes below: for each part the larger of its arithmetic and its traffic."""
    width, layers, inner = shape["hidden_size"], shape["num_hidden_layers"], shape["intermediate_size"]
    head_width = width // shape["num_attention_heads"]
    shared = 2 * shape["num_key_value_heads"] * head_width
    trunk = layers * (width * (2 * width + shared) + 3 * width * inner)
    head = shape["vocab_size"] * width
    answers, prompt, new = work["prompts"] * work["group"], work["prompt_tokens"], work["new_tokens"]
    read_once = 2 * (trunk + head) + answers * (prompt + new / 2) * layers * shared * 2  # bfloat16 weights and, on average, the cache
    decoding = max(read_once / rates["bytes_per_second"], 2 * (trunk + head) * answers / rates["flops_per_second"])
    tokens, learned = answers * (prompt + new), answers * new
    attention = 3.5 * 2 * answers * (prompt + new) ** 2 * width * layers  # causal; two and a half times the forward pass again backwards
    update = (6 * (trunk * tokens + head * learned) + attention) / rates["flops_per_second"]
    optimizer = 28 * (trunk + head) / rates["bytes_per_second"]  # weight, gradient and two moments read, three of them written
    parts = {"sample": new * decoding, "judge": 0.0, "logprob": 0.0, "update": update + optimizer, "rest": 0.0}
    return {name: round(seconds, 4) for name, seconds in {**parts, "step": sum(parts.values())}.items()}


def table(found: dict) -> str:
    """The summary as Markdown."""
    columns = [name for name in ("afterbase", "floor", "trl", "trl-vllm") if name in found]
    lines = [["seconds", *columns], ["---"] * (len(columns) + 1)]
    lines += [[part, *(f"{found[column][part]:.2f}" for column in columns)] for part in (*PARTS, "step")]
    for name, words in (("allocated_gib", "peak allocated, GiB"), ("card_gib", "peak on the card, GiB")):
        lines.append([words, *(f"{found[column][name]:.1f}" if name in found[column] else "" for column in columns)])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    for name, ratio in found.items():
        if name.startswith("times faster"):
            text += f"\n{name}: {ratio['median']} ({ratio['range'][0]}-{ratio['range'][1]})"
    return text


def prompts(steps: int, work: dict, vocabulary: int) -> list[str]:
    """Different questions for every step, each of so many words."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(work["prompt_tokens"])) for _ in range(steps * work["prompts"])]


def rewards(completions: list[str], **columns: list) -> list[float]:
    """A number between 0 and 1 that depends on the answer and on nothing else."""
    return [zlib.crc32(str(text).encode()) / 2**32 for text in completions]


def work(rehearse: bool) -> dict:
    return {"prompts": 4, "group": 2, "prompt_tokens": 8, "new_tokens": 16} if rehearse else WORK


def installed(piece: str) -> bool:
    """Whether what a piece needs is there."""
    return all(find_spec(name) for name in {"trl": ["trl"], "trl-vllm": ["trl", "vllm"]}.get(piece, []))


if __name__ == "__main__":
    main()
