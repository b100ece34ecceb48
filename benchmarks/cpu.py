"""Generation and GRPO steps on the CPU, beside transformers and TRL in the same run.

    make bench                      (or: python benchmarks/cpu.py --rounds 3)

The work: a 3.3M-parameter Qwen2 and the 1.2M-parameter DeepSeek-V3 of the quickstart, random weights; 64 prompts x 8 answers x
exactly 64 new tokens at temperature 1; for GRPO one update on them with the same plain reward and no reference model. Each side runs
in a process of its own, in float32 and in bfloat16 (the peer's generation with bfloat16 weights, everything else by autocast), the
sides taking turns; the first timing of a process warms up and is not counted. Each side is credited with its faster
precision. Writes benchmarks/results/<hardware>.json and prints the ratios with their range over the rounds; what the file says of
pieces of the work that were not asked for stays in it, with the day and the command they were measured with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
WORK = {"prompts": 64, "group": 8, "new_tokens": 64}
SHAPES = {
    "qwen2": {
        "model_type": "qwen2", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    },
    "deepseek_v3": {  # the quickstart's, without its MTP module, which neither side uses here
        "model_type": "deepseek_v3", "vocab_size": 640, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "q_lora_rank": None, "kv_lora_rank": 32,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "moe_intermediate_size": 96, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
        "num_nextn_predict_layers": 0, "initializer_range": 0.06,
    },
}  # fmt: skip
SIDES = {"generate": ("transformers", "afterbase"), "grpo": ("trl", "afterbase")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3, help="turns of each side")
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--out", type=Path, help="result file")
    options.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    options.add_argument("--tasks", nargs="+", choices=SIDES, default=list(SIDES))
    chosen = options.parse_args()
    timings: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in chosen.models:
            make_checkpoint(Path(directory, name), SHAPES[name])
        for turn in range(chosen.rounds):
            for name in chosen.models:
                measure(Path(directory, name), chosen.tasks, f"turn {turn + 1}/{chosen.rounds}", chosen.threads, timings)
    path = chosen.out or HERE / "results" / f"{hardware().replace(' ', '-').replace('/', '-')}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"seconds": {}, "measured": {}}
    this = {"date": date.today().isoformat(), "command": "python " + " ".join(sys.argv), "threads": chosen.threads, "versions": versions()}
    seconds = {**before["seconds"], **timings}
    result = {
        "hardware": hardware(), "work": WORK, "shapes": SHAPES, "measured": {**before["measured"], **dict.fromkeys(timings, this)},
        "seconds": seconds, "summary": summary(seconds),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for task in timings:
        print(f"{task}: {json.dumps(result['summary'][task])}")
    print(f"written to {path}")


def measure(checkpoint: Path, tasks: list[str], turn: str, threads: int, timings: dict[str, dict[str, list[float]]]) -> None:
    """Add the seconds of one piece of work, by model and task and by side with precision."""
    for task in tasks:
        for side in SIDES[task]:
            for precision in ("float32", "bfloat16"):
                command = [sys.executable, str(HERE / f"cpu_{side}.py"), task, str(checkpoint), precision, str(threads)]
                environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
                seconds = json.loads(done.stdout.strip().splitlines()[-1])
                timings.setdefault(f"{checkpoint.name} {task}", {}).setdefault(f"{side} {precision}", []).extend(seconds)
                print(f"{turn}  {checkpoint.name:12s} {task:8s} {side:12s} {precision}  {statistics.median(seconds):.2f} s", flush=True)


def summary(timings: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, object]]:
    """For each task the faster precision of each side, and how many times faster afterbase is (median; worst and best pairing)."""
    tokens = WORK["prompts"] * WORK["group"] * WORK["new_tokens"]
    found = {}
    for task in timings:
        peer, ours = SIDES[task.split()[1]]
        best = {side: min((x for x in timings[task].items() if x[0].startswith(side)), key=lambda x: statistics.median(x[1]))
                for side in (peer, ours)}  # fmt: skip
        (peer_name, theirs), (our_name, mine) = best[peer], best[ours]
        found[task] = {
            "peer": peer_name, "peer_seconds": round(statistics.median(theirs), 3),
            "afterbase": our_name, "afterbase_seconds": round(statistics.median(mine), 3),
            "peer_tokens_per_second": round(tokens / statistics.median(theirs)),
            "afterbase_tokens_per_second": round(tokens / statistics.median(mine)),
            "times_faster": round(statistics.median(theirs) / statistics.median(mine), 2),
            "range": [round(min(theirs) / max(mine), 2), round(max(theirs) / min(mine), 2)], "n": len(mine),
        }  # fmt: skip
    return found


def make_checkpoint(directory: Path, shape: dict) -> None:
    """The same random weights and tokenizer for every side, in Hugging Face format."""
    from afterbase.model.checkpoint import save_model
    from afterbase.model.config import ModelConfig
    from afterbase.model.transformer import Transformer
    from afterbase.text.chat import HOUSE_TEMPLATE
    from afterbase.text.tokenizer import SPECIAL, train_bpe

    directory.mkdir(parents=True)
    texts = [f"What is {a} + {b}? {a + b}" for a in range(60) for b in range(30)]
    tokenizer = train_bpe(iter(texts), shape["vocab_size"], list(SPECIAL), HOUSE_TEMPLATE)
    save_model(Transformer(ModelConfig.from_hf({**shape, "eos_token_id": tokenizer.eos_id})).initialize(0), directory)
    tokenizer.save(directory)


def prompts() -> list[str]:
    """The questions of one piece of work."""
    return [f"What is {7 * i % 100} + {13 * i % 100}?" for i in range(WORK["prompts"])]


def reward(text: str) -> float:
    """The share of digits: cheap, and different for every answer."""
    return sum(letter.isdigit() for letter in text) / max(1, len(text))


def rewards(completions: list[str], **columns: list) -> list[float]:
    """The same as a function of a recipe's own."""
    return [reward(text) for text in completions]


def timed(work, times: int) -> list[float]:
    """Seconds of each call after a first one that warms up."""
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return [round(x, 4) for x in seconds[1:]]


def hardware() -> str:
    """The processor's name and how many cores were there."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
        amx = " AMX" if any("amx_tile" in line for line in lines) else ""
        name += amx
    return f"{name} {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """What was measured."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "afterbase")}


if __name__ == "__main__":
    main()
