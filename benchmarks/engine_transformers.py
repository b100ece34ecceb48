"""A peer's side: transformers' `generate` on workload A; it has no log-probabilities to give but whole distributions, so it gives none."""

import json
import sys
import time

import torch
from common import Memory
from engine_work import work
from transformers import AutoModelForCausalLM

settings = json.loads(sys.argv[1])
device = "cuda" if torch.cuda.is_available() else "cpu"
asked, memory = work(settings["workload"], settings["rehearse"]), Memory()
model = AutoModelForCausalLM.from_pretrained(settings["checkpoint"], dtype=torch.bfloat16, attn_implementation="sdpa").to(device).eval()
prompts, new = torch.tensor(asked.prompts, device=device), asked.lengths[0]


@torch.no_grad()
def seconds(tokens: int) -> float:
    began = time.perf_counter()
    drawn = model.generate(
        input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0,
    )  # fmt: skip
    assert drawn.cpu().shape == (len(prompts), prompts.shape[1] + tokens), "an answer ended early"
    return round(time.perf_counter() - began, 4)


seconds(min(32, new))  # warms up
print(json.dumps({"seconds": [seconds(new) for _ in range(settings["times"])], "tokens": asked.tokens, **memory.peaks()}))
