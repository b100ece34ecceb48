"""The engine beside vLLM and transformers on one GPU, and beside what the card allows at best.

    python benchmarks/engine.py                                       (all pieces that can run here; about ten minutes)
    python benchmarks/engine.py rates afterbase-A vllm-AB --out r.json  (pieces, merged into one file: one machine, one sitting)
    python benchmarks/engine.py --table --out r.json                  (only print what the file holds)

The work, with the log-probability of every sampled token: random weights of the shape of Qwen2-0.5B (A, B) and Qwen2-1.5B (C), temperature
1, at most 256 requests at a time. A and C: 256 requests of 128 prompt tokens and exactly 512 new ones. B: 1,024 requests, prompts of 32 to
512 tokens, lengths drawn log-normally between 16 and 1,024. D: drafts of the MTP module on a DeepSeek-V3-shaped model trained here
(recipes/mtp_deepseek.toml), at one request and at 64 at a time, against the same engine without drafts.

Each side runs in a process of its own; its first turn warms up and is not counted. transformers returns no log-probabilities here, which
flatters it. Beside each figure stands the floor: see engine_floor.py. On a CPU benchmarks/cpu.py measures generation beside transformers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from common import HERE, answered, asking, card, figures, held, keep, make_checkpoint, need_cuda, piece
from engine_floor import costs, drafting_seconds, least_seconds, module_costs
from engine_work import WORKLOADS, model_shape, work

PIECES = ("rates", "afterbase-A", "afterbase-B", "afterbase-C", "train", "afterbase-D", "transformers-A", "vllm-AB", "vllm-C")
RECIPE = HERE.parent / "recipes" / "mtp_deepseek.toml"
TINY = (
    "steps=2", "tokens_per_step=1024", "tokenizer_documents=200", "architecture.hidden_size=64", "architecture.num_hidden_layers=2",
    "architecture.n_routed_experts=8", "architecture.moe_intermediate_size=32", "architecture.kv_lora_rank=32",
)  # fmt: skip
"""What a rehearsal changes of the recipe."""


def main() -> None:
    options = asking(__doc__, PIECES)
    options.add_argument("--times", type=int, default=3, help="turns of our side that count")
    options.add_argument("--peer-times", type=int, default=2, help="turns of a peer that count")
    options.add_argument(
        "--mtp", type=Path, default=Path("runs/mtp"), help="where D's model is trained; a trained one is not trained again"
    )
    options.add_argument("--checkpoints", type=Path, help="where the models of random weights are kept for the next run; unset: nowhere")
    options.add_argument("--table", action="store_true", help="run nothing")
    chosen = answered(options, PIECES)
    path = chosen.out or HERE / "results" / f"engine-{card().replace(' ', '-')}.json"
    result = held(path)
    if not chosen.table:
        need_cuda(chosen.rehearse)
        for name in chosen.pieces or [name for name in PIECES if installed(name)]:
            began = time.perf_counter()
            result["pieces"][name] = {**run(name, chosen), "piece_seconds": round(time.perf_counter() - began, 1)}
            result["rehearsal"] = chosen.rehearse
            result["summary"] = summary(result)
            keep(path, result)
    print(table(summary(result)))
    print(f"({path})")


def run(name: str, chosen: argparse.Namespace) -> dict:
    """One piece in a process of its own: what it found."""
    common = {"rehearse": chosen.rehearse}
    if name == "rates":
        return piece(name, "rates.py", common)
    if name == "train":
        return trained(chosen)
    ours = {**common, "times": chosen.times}
    if name == "afterbase-D":
        checkpoint = chosen.mtp / "checkpoints" / "final"
        return piece(name, "engine_mtp.py", {**ours, "checkpoint": str(checkpoint), "recipe": str(RECIPE)})
    side, _, workloads = name.partition("-")
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = (chosen.checkpoints or Path(directory)) / ("large" if workloads == "C" else "small")
        if not (checkpoint / "tokenizer_config.json").exists():  # what is written last
            checkpoint.mkdir(parents=True, exist_ok=True)
            make_checkpoint(checkpoint, model_shape(workloads[0], chosen.rehearse))
        times = chosen.times if side == "afterbase" else chosen.peer_times
        settings = {**common, "times": times, "checkpoint": str(checkpoint), "workload": workloads, "workloads": list(workloads)}
        return piece(name, f"engine_{side}.py", settings)


def trained(chosen: argparse.Namespace) -> dict:
    """D's model, made by the command that anybody runs."""
    from afterbase.track import read_metrics

    overrides = TINY if chosen.rehearse else ()
    command = [sys.executable, "-m", "afterbase", "pretrain", str(RECIPE), *overrides, "--out", str(chosen.mtp)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    rows, times = (read_metrics(chosen.mtp / name) for name in ("metrics.jsonl", "timings.jsonl"))
    seconds = [row["time/step/seconds"] for row in times]
    last = {name: round(rows[-1][f"train/{name}/mean"], 4) for name in ("loss", "mtp_loss")}
    tokens = sum(row["train/tokens/count"] for row in rows)
    return {"steps": len(rows), "tokens": tokens, "seconds": round(sum(seconds), 1), "step_seconds": figures(seconds[1:]), **last}


def summary(result: dict) -> dict:
    """Tokens a second of every side, how many times faster afterbase is (medians; worst and best pairing), and its share of the floor."""
    pieces, rehearse = result["pieces"], result.get("rehearsal", False)
    found = {}
    for name in WORKLOADS:
        timings = {
            "afterbase": pieces.get(f"afterbase-{name}"), "transformers": pieces.get(f"transformers-{name}"),
            "vllm": next((piece["workloads"][name] for piece in pieces.values() if name in piece.get("workloads", {})), None),
        }  # fmt: skip
        sides = {side: timing for side, timing in timings.items() if timing}
        if sides:
            found[name] = compared(name, sides, pieces.get("rates"), rehearse)
    if "afterbase-D" in pieces:
        found["D"] = drafted(pieces["afterbase-D"], pieces.get("rates"))
    return found


def compared(name: str, sides: dict[str, dict], rates: dict | None, rehearse: bool) -> dict:
    """One workload of dense models."""
    asked = work(name, rehearse)
    speeds = {side: [asked.tokens / seconds for seconds in timing["seconds"]] for side, timing in sides.items()}
    found: dict = {side: figures(values, 0) for side, values in speeds.items()}
    if without := sides.get("vllm", {}).get("without_logprobs"):
        found["vllm without log-probs"] = figures([asked.tokens / seconds for seconds in without], 0)
    if rates:
        prompts = [len(prompt) for prompt in asked.prompts]
        floor = asked.tokens / least_seconds(costs(model_shape(name, rehearse)), rates, prompts, asked.lengths, asked.rows)
        found["floor"] = {"median": round(floor)}
        found["share of the floor"] = {side: round(found[side]["median"] / floor, 3) for side in speeds}
    if "afterbase" in sides:
        found["times faster"] = {side: faster(speeds["afterbase"], values) for side, values in speeds.items() if side != "afterbase"}
        told = ("allocated_gib", "card_gib", "looks", "logprob_gap", "load_milliseconds")
        found["told"] = {key: sides["afterbase"][key] for key in told if key in sides["afterbase"]}
    return found


def drafted(measured: dict, rates: dict | None) -> dict:
    """Workload D: each number of drafts against none, in the same batch."""
    found: dict = {"acceptance": measured["acceptance"]}
    for batch in (key for key in measured if key.startswith("batch ")):
        plain = measured[batch]["0"]["tokens_per_second"]
        for drafts, one in measured[batch].items():
            speeds = one["tokens_per_second"]
            row = {"tokens_per_second": figures(speeds, 0), "times plain": faster(speeds, plain), "tokens_per_step": per_step(one)}
            if rates:
                floor = drafting_floor(measured["shape"], rates, one, row["tokens_per_step"])
                row |= {"floor": round(floor), "share of the floor": round(row["tokens_per_second"]["median"] / floor, 3)}
            found[f"{batch}, {drafts} drafts"] = row
    return found


def per_step(one: dict) -> float:
    """Tokens that a row gained at a step, plain steps included."""
    told = one["speculation"]
    if not told or not told["steps"]:
        return 1.0
    # Every accepted draft is a token more than the one that each row gets in any case. How many rows a step without drafts had is not told:
    # taken as all, which is exact for one request at a time.
    accepted = sum(share * asked for share, asked in zip(told["by_position"], told["drafted"], strict=True))
    return round(1 + accepted / (told["drafted"][0] + told["plain_steps"] * one["rows"]), 3)


def drafting_floor(shape: dict, rates: dict, one: dict, tokens_per_step: float) -> float:
    """Tokens a second at best: without drafts, or with as many tokens a step as were accepted."""
    rows, context = one["rows"], one["prompt_tokens"] + one["new_tokens"] / 2
    ways = {0: 1.0, one["drafts"]: tokens_per_step}
    parts = costs(shape), module_costs(shape), rates, rows, context
    return max(rows * gained / drafting_seconds(*parts, drafts) for drafts, gained in ways.items())


def faster(mine: list[float], theirs: list[float]) -> dict:
    """How many times as many tokens a second, with the worst and the best pairing."""
    medians = figures(mine)["median"] / figures(theirs)["median"]
    return {"median": round(medians, 2), "range": [round(min(mine) / max(theirs), 2), round(max(mine) / min(theirs), 2)]}


def table(found: dict) -> str:
    """The summary as Markdown."""
    lines = [["tokens/s", "afterbase", "of the floor", "vLLM", "times faster", "transformers", "times faster"], ["---"] * 7]
    for name in (name for name in WORKLOADS if name in found):
        one = found[name]
        floor = f"{one['share of the floor'].get('afterbase', 0):.0%} of {one['floor']['median']:,}" if "floor" in one else ""
        line = [f"{name}: {WORKLOADS[name]}", speed(one.get("afterbase")), floor]
        for side in ("vllm", "transformers"):
            ratio = one.get("times faster", {}).get(side)
            line += [speed(one.get(side)), f"{ratio['median']} ({ratio['range'][0]}-{ratio['range'][1]})" if ratio else ""]
        lines.append(line)
    parts = [rows_of(lines), "\n".join(remarks(found))] if len(lines) > 2 else []
    return "\n\n".join([*parts, *([drafting_table(found["D"])] if "D" in found else [])])


def remarks(found: dict) -> list[str]:
    """What was measured besides, a line for each workload."""
    lines = []
    for name, one in found.items():
        if told := one.get("told"):
            gap, load = told["logprob_gap"], told["load_milliseconds"]
            lines.append(
                f"{name}: |engine - trainer| log-prob mean {gap['mean']:.5f}, max {gap['max']:.4f} over {gap['tokens']:,} tokens; load "
                f"{load['load']['median']} ms (refresh {load['refresh']['median']}), checksum {load['checksum']['median']} ms, "
                f"{load['tensors_in_place']} tensors in place; looks of the host {told['looks']}; peak {told['allocated_gib']} GiB "
                f"allocated, {told['card_gib']} on the card"
            )
        if without := one.get("vllm without log-probs"):
            lines.append(f"{name}: vLLM without log-probs {without['median']:,.0f} tokens/s")
    return lines


def drafting_table(one: dict) -> str:
    """Workload D as Markdown."""
    lines = [["D", "tokens/s", "times plain", "tokens a step", "of the floor"], ["---"] * 5]
    for name, row in one.items():
        if name != "acceptance":
            ratio = row["times plain"]
            floor = f"{row['share of the floor']:.1%} of {row['floor']:,}" if "floor" in row else ""
            times = f"{ratio['median']} ({ratio['range'][0]}-{ratio['range'][1]})"
            lines.append([name, f"{row['tokens_per_second']['median']:,.0f}", times, f"{row['tokens_per_step']}", floor])
    accepted = [["accepted", "1st draft", "2nd", "3rd", "1st by domain"], ["---"] * 5]
    for name, told in one["acceptance"].items():
        if told:
            domains = ", ".join(f"{domain} {share['by_position'][0]:.1%}" for domain, share in told["by_domain"].items())
            accepted.append([name, *(f"{share:.1%}" for share in told["by_position"]), domains])
    return rows_of(lines) + "\n\n" + rows_of(accepted)


def speed(one: dict | None) -> str:
    return f"{one['median']:,.0f}" if one else ""


def rows_of(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def installed(name: str) -> bool:
    """Whether what a piece needs is there."""
    worked_out = {"train": "reasoning_gym", "afterbase-D": "reasoning_gym"}  # which makes the questions
    needed = worked_out.get(name, name.split("-")[0])
    return needed in ("rates", "afterbase") or find_spec(needed) is not None


if __name__ == "__main__":
    main()
