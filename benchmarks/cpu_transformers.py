"""The peer's side of generation: transformers.generate on left-padded prompts."""

import json
import sys

import torch
from cpu import WORK, prompts, timed
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

_, _, checkpoint, precision, threads = sys.argv
torch.set_num_threads(int(threads))
dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="sdpa").eval()
tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint, padding_side="left")
batch = tokenizer([text for text in prompts() for _ in range(WORK["group"])], return_tensors="pt", padding=True)
inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def work() -> None:
    with torch.no_grad():
        new = WORK["new_tokens"]
        model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_new_tokens=new, max_new_tokens=new)


print(json.dumps(timed(work, 2)))
