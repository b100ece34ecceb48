"""A peer's side: vLLM's offline engine, with log-probabilities of the sampled tokens and, for the record, without."""

import json
import sys
import time

from engine_work import Work, work


def seconds(engine, asked: Work, logprobs: int | None) -> float:
    from vllm import SamplingParams

    common = {"temperature": 1.0, "ignore_eos": True, "detokenize": False, "logprobs": logprobs}
    each = [SamplingParams(max_tokens=length, **common) for length in asked.lengths]
    prompts = [{"prompt_token_ids": prompt} for prompt in asked.prompts]
    began = time.perf_counter()
    found = engine.generate(prompts, each, use_tqdm=False)
    took = time.perf_counter() - began
    assert [len(one.outputs[0].token_ids) for one in found] == asked.lengths, "an answer ended early"
    assert logprobs is None or all(len(one.outputs[0].logprobs) == length for one, length in zip(found, asked.lengths, strict=True))
    return round(took, 4)


def main() -> None:
    from vllm import LLM

    settings = json.loads(sys.argv[1])
    asked = {name: work(name, settings["rehearse"]) for name in settings["workloads"]}
    began = time.perf_counter()
    engine = LLM(
        model=settings["checkpoint"], skip_tokenizer_init=True, dtype="bfloat16", gpu_memory_utilization=0.6, max_model_len=2048,
        enable_prefix_caching=False, max_num_seqs=max(one.rows for one in asked.values()), seed=0,
    )  # fmt: skip
    found = {"start_seconds": round(time.perf_counter() - began, 1), "workloads": {}}
    for name, one in asked.items():
        if not found["workloads"]:
            seconds(engine, one, 0)  # warms up
        timings = [seconds(engine, one, 0) for _ in range(settings["times"])]
        plain = [seconds(engine, one, None)] if name != "B" else []
        found["workloads"][name] = {"seconds": timings, "without_logprobs": plain, "tokens": one.tokens}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":  # its engine's process may import this file again
    main()
