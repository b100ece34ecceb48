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
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import zlib
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PIECES = ("rates", "afterbase", "trl", "trl-vllm")
PARTS = ("sample", "judge", "logprob", "update", "rest")
WORK = {"prompts": 32, "group": 8, "prompt_tokens": 128, "new_tokens": 512}
SHAPE = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
SMALL = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
"""What a rehearsal changes."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pieces", nargs="*", metavar="piece", help=f"of {', '.join(PIECES)}; all when none is named")
    options.add_argument("--steps", type=int, default=6, help="steps of each side, the first of which is not counted")
    options.add_argument("--tokens-per-batch", type=int, default=16384, help="afterbase: tokens in one forward and backward pass")
    options.add_argument("--trl-batch", type=int, default=32, help="TRL: sequences in one forward and backward pass")
    options.add_argument("--out", type=Path, help="result file; pieces that it holds already are kept")
    options.add_argument("--table", action="store_true", help="run nothing")
    options.add_argument("--rehearse", action="store_true", help="a tiny model and little work, on a CPU too: does everything run?")
    chosen = options.parse_args()
    if wrong := set(chosen.pieces) - set(PIECES):
        options.error(f"no such piece: {', '.join(sorted(wrong))}; there are {', '.join(PIECES)}")
    path = chosen.out or HERE / "results" / f"{card().replace(' ', '-')}.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"pieces": {}}
    if not chosen.table:
        need_cuda(chosen.rehearse)
        for piece in chosen.pieces or [piece for piece in PIECES if installed(piece)]:
            result["pieces"][piece] = run(piece, chosen)
            result |= {"hardware": card(), "date": date.today().isoformat(), "work": work(chosen.rehearse), "shape": shape(chosen.rehearse)}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**result, "summary": summary(result)}, indent=1) + "\n", encoding="utf-8")
    print(table(summary(result)))
    print(f"({path})")


def run(piece: str, chosen: argparse.Namespace) -> dict:
    """One piece in a process of its own: what it prints last."""
    script = {"rates": "grpo_rates.py", "afterbase": "grpo_afterbase.py"}.get(piece, "grpo_trl.py")
    with tempfile.TemporaryDirectory() as directory:
        if piece != "rates":
            make_checkpoint(Path(directory), shape(chosen.rehearse))
        settings = {
            "checkpoint": directory, "steps": chosen.steps, "work": work(chosen.rehearse), "vllm": piece == "trl-vllm",
            "tokens_per_batch": chosen.tokens_per_batch, "trl_batch": chosen.trl_batch, "rehearse": chosen.rehearse,
        }  # fmt: skip
        command = [sys.executable, str(HERE / script), json.dumps(settings)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{piece} failed: its last words are above, its output was:\n{done.stdout[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{piece}: {json.dumps(found)}", flush=True)
    return {**found, "versions": versions()}


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
        found[f"times faster than {side}"] = {
            "median": round(statistics.median(theirs) / statistics.median(mine), 2),
            "range": [round(min(theirs) / max(mine), 2), round(max(theirs) / min(mine), 2)],
        }
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


def make_checkpoint(directory: Path, shape: dict) -> None:
    """The same random weights for every side, and a tokenizer whose every word is one token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from afterbase.model.checkpoint import save_model
    from afterbase.model.config import ModelConfig
    from afterbase.model.transformer import Transformer

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Transformer(ModelConfig.from_hf(shape))
        for name, parameter in model.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.data.normal_(0, 0.0 if name.endswith("bias") else 0.02)
    save_model(model, directory, torch.bfloat16)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{number}": number for number in range(3, shape["vocab_size"])}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Replace("w", " w")
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<unk>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")


def prompts(steps: int, work: dict, vocabulary: int) -> list[str]:
    """Different questions for every step, each of so many words."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(work["prompt_tokens"])) for _ in range(steps * work["prompts"])]


def rewards(completions: list[str], **columns: list) -> list[float]:
    """A number between 0 and 1 that depends on the answer and on nothing else."""
    return [zlib.crc32(str(text).encode()) / 2**32 for text in completions]


class Memory(threading.Thread):
    """Watches how much of the card is in use."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0, threading.Event()
        self.start()

    def run(self) -> None:
        import torch

        while torch.cuda.is_available() and not self.ended.wait(0.02):
            free, total = torch.cuda.mem_get_info()
            self.most = max(self.most, total - free)

    def peaks(self) -> dict[str, float]:
        """GiB that torch had allocated at most, and that were in use on the card."""
        import torch

        self.ended.set()
        allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return {"allocated_gib": round(allocated / 2**30, 2), "card_gib": round(self.most / 2**30, 2)}


def work(rehearse: bool) -> dict:
    return {"prompts": 4, "group": 2, "prompt_tokens": 8, "new_tokens": 16} if rehearse else WORK


def shape(rehearse: bool) -> dict:
    return {**SHAPE, **SMALL} if rehearse else SHAPE


def card() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def need_cuda(rehearse: bool) -> None:
    """One sentence where there is nothing to measure."""
    if card() == "no GPU" and not rehearse:
        print("this benchmark needs an NVIDIA GPU and torch sees none; benchmarks/cpu.py is the one for a CPU", file=sys.stderr)
        sys.exit(2)


def installed(piece: str) -> bool:
    """Whether what a piece needs is there."""
    return all(find_spec(name) for name in {"trl": ["trl"], "trl-vllm": ["trl", "vllm"]}.get(piece, []))


def versions() -> dict[str, str]:
    """What was measured."""
    found = {}
    for name in ("torch", "triton", "transformers", "trl", "vllm", "afterbase"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
