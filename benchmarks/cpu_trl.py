"""The peer's side of a GRPO step: TRL's GRPOTrainer with transformers generation."""

import json
import sys
import tempfile
import time

import torch
from cpu import WORK, prompts, reward
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

_, _, checkpoint, precision, threads = sys.argv
torch.set_num_threads(int(threads))
STEPS, MICRO = 3, 64  # the first step warms up
tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
seconds: list[float] = []


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        seconds.append(round(time.perf_counter() - self.began, 4))


answers = WORK["prompts"] * WORK["group"]
config = GRPOConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=MICRO, gradient_accumulation_steps=answers // MICRO,
    num_generations=WORK["group"], max_completion_length=WORK["new_tokens"], max_steps=STEPS, learning_rate=1e-4, beta=0.0,
    generation_kwargs={"min_new_tokens": WORK["new_tokens"]}, use_cpu=True, bf16=precision == "bfloat16", gradient_checkpointing=False,
    report_to=[], save_strategy="no", disable_tqdm=True, seed=0, logging_steps=1,
)  # fmt: skip
GRPOTrainer(
    model=model, processing_class=tokenizer, args=config, callbacks=[Clock()],
    reward_funcs=lambda completions, **_: [reward(text) for text in completions],
    train_dataset=Dataset.from_dict({"prompt": prompts() * STEPS}),
).train()  # fmt: skip
print(json.dumps(seconds[1:]))
