"""What the benchmarks on a GPU share: pieces in processes of their own, one result file, the card, checkpoints of random weights."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
SHAPE = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
"""Qwen2-0.5B's."""
SMALL = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
"""What a rehearsal changes."""


def asking(words: str | None, pieces: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every benchmark of pieces has."""
    options = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pieces", nargs="*", metavar="piece", help=f"of {', '.join(pieces)}; all that can run here when none is named")
    options.add_argument("--out", type=Path, help="result file; pieces that it holds already are kept")
    options.add_argument("--rehearse", action="store_true", help="tiny models and little work, on a CPU too: does everything run?")
    return options


def answered(options: argparse.ArgumentParser, pieces: Sequence[str]) -> argparse.Namespace:
    """What the command line says; it ends here when a piece is none of those."""
    chosen = options.parse_args()
    if wrong := set(chosen.pieces) - set(pieces):
        options.error(f"no such piece: {', '.join(sorted(wrong))}; there are {', '.join(pieces)}")
    return chosen


def shape(rehearse: bool) -> dict:
    return {**SHAPE, **SMALL} if rehearse else SHAPE


def piece(name: str, script: str, settings: dict) -> dict:
    """The last JSON object that a script prints, run in a process of its own."""
    command = [sys.executable, str(HERE / script), json.dumps(settings)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{name} failed: its last words are above, its output was:\n{done.stdout[-3000:]}")
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    print(f"{name}: {json.dumps(found)}", flush=True)
    return {**found, "versions": versions()}


def held(path: Path) -> dict:
    """The result so far."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"pieces": {}}


def keep(path: Path, result: dict) -> None:
    """Write the result as it is now, with where and when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "hardware": card(), "date": date.today().isoformat()}, indent=1) + "\n", encoding="utf-8")


def figures(values: Iterable[float], digits: int = 4) -> dict:
    """Median, range and n."""
    values = list(values)
    spread = [round(min(values), digits), round(max(values), digits)]
    return {"median": round(statistics.median(values), digits), "range": spread, "n": len(values)}


def times_faster(mine: list[float], theirs: list[float]) -> dict:
    """How many times longer they took: the medians, and the worst and the best pairing."""
    return {
        "median": round(statistics.median(theirs) / statistics.median(mine), 2),
        "range": [round(min(theirs) / max(mine), 2), round(max(theirs) / min(mine), 2)],
    }


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
    for name, weight in model.named_parameters():
        if not name.endswith("norm.weight"):
            weight.data.normal_(0, 0.0 if name.endswith("bias") else 0.02)
    save_model(model, directory, torch.bfloat16)
    del model, weight
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what this process keeps counts as in use on the card
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{number}": number for number in range(3, shape["vocab_size"])}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Replace("w", " w")
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<unk>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")


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


def now() -> float:
    """The clock in seconds, once the card has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def card() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def need_cuda(rehearse: bool) -> None:
    """One sentence where there is nothing to measure."""
    if card() == "no GPU" and not rehearse:
        print("this benchmark needs an NVIDIA GPU and torch sees none; benchmarks/cpu.py is the one for a CPU", file=sys.stderr)
        sys.exit(2)


def versions() -> dict[str, str]:
    """What was measured."""
    found = {}
    for name in ("torch", "triton", "transformers", "trl", "vllm", "afterbase"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
