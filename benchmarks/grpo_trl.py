"""The peer's side: TRL's GRPOTrainer, sampling with transformers or with a colocated vLLM."""

import json
import sys
import tempfile
from collections import defaultdict

import torch
from common import Memory, now
from datasets import Dataset
from grpo import prompts, rewards
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

settings = json.loads(sys.argv[1])
work, steps, cuda = settings["work"], settings["steps"], torch.cuda.is_available()
answers = work["prompts"] * work["group"]
WHOLE = {"_generate": "sample", "_calculate_rewards": "judge", "_get_per_token_logps_and_entropies": "logprob", "_prepare_inputs": "inputs"}
"""Methods that are timed by themselves; log-probabilities only where no gradient follows, the others belong to the update."""
spent: dict[str, float] = defaultdict(float)
rows: list[dict[str, float]] = []


def timed(trainer: GRPOTrainer, method: str, part: str) -> None:
    inner = getattr(trainer, method)

    def outer(*arguments, **named):
        if part == "logprob" and torch.is_grad_enabled():
            return inner(*arguments, **named)
        began = now()
        found = inner(*arguments, **named)
        spent[part] += now() - began
        return found

    setattr(trainer, method, outer)


class Clock(TrainerCallback):
    """A step begins before its answers are drawn and ends after the optimizer's step."""

    def on_step_begin(self, *_, **__):
        spent.clear()
        self.began = now()

    def on_step_end(self, *_, **__):
        whole = now() - self.began
        drawn = {part: spent[part] for part in ("sample", "judge", "logprob")}
        rest = spent["inputs"] - sum(drawn.values())
        rows.append({**drawn, "update": whole - spent["inputs"], "rest": rest, "step": whole})


shortest = {"min_tokens" if settings["vllm"] else "min_new_tokens": work["new_tokens"]}
beside = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3} if settings["vllm"] else {}
micro = min(settings["trl_batch"], answers)
config = GRPOConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=micro, gradient_accumulation_steps=answers // micro,
    num_generations=work["group"], max_completion_length=work["new_tokens"], max_steps=steps, learning_rate=1e-6, beta=0.0,
    temperature=1.0, bf16=cuda, use_cpu=not cuda, gradient_checkpointing=False, generation_kwargs=shortest, logging_steps=1,
    report_to="none", save_strategy="no", disable_tqdm=True, seed=0, **beside,
)  # fmt: skip
tokenizer = PreTrainedTokenizerFast.from_pretrained(settings["checkpoint"], padding_side="left")
model = AutoModelForCausalLM.from_pretrained(settings["checkpoint"], dtype=torch.bfloat16 if cuda else torch.float32)
asked = Dataset.from_dict({"prompt": prompts(steps, work, model.config.vocab_size)})
trainer = GRPOTrainer(
    model=model, processing_class=tokenizer, args=config, reward_funcs=rewards, train_dataset=asked, callbacks=[Clock()]
)  # fmt: skip
for name, which in WHOLE.items():
    timed(trainer, name, which)
memory = Memory()
trainer.train()
history = [each for each in trainer.state.log_history if "completions/mean_length" in each]
assert all(each["completions/mean_length"] == work["new_tokens"] for each in history), "an answer ended early"
counted = [{name: round(value, 4) for name, value in row.items()} for row in rows[1:]]
print(json.dumps({"steps": counted, **memory.peaks()}))
