"""The peer's side: TRL's SFTTrainer with packing."""

import json
import sys
import tempfile

import torch
from common import Memory, now
from datasets import Dataset
from sft import documents, flops_per_token
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

settings = json.loads(sys.argv[1])
more = json.loads(settings["trl"])
attention = {"attn_implementation": more.pop("attn_implementation")} if "attn_implementation" in more else {}
shape, work, steps, cuda = settings["shape"], settings["work"], settings["steps"], torch.cuda.is_available()
WARM = min(3, steps - 1)
if not cuda:
    torch.set_num_threads(settings["threads"])
seconds: list[float] = []


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.began = now()

    def on_step_end(self, *_, **__):
        seconds.append(now() - self.began)


words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
rows = [tokens for update in documents(work, steps + 2, shape["vocab_size"]) for tokens in update]
kept = {name: value for name, value in shape.items() if name != "model_type"}
with torch.device("cuda" if cuda else "cpu"):
    model = Qwen2ForCausalLM._from_config(
        Qwen2Config(**kept, bos_token_id=1, eos_token_id=1, pad_token_id=0), dtype=torch.bfloat16 if cuda else torch.float32, **attention
    )
config = SFTConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=settings["trl_batch"], max_length=work["packed"], packing=True,
    gradient_accumulation_steps=work["rows"] // settings["trl_batch"], max_steps=steps, learning_rate=1e-5, use_cpu=not cuda,
    bf16=settings["precision"] == "bfloat16", gradient_checkpointing=False, logging_steps=1, report_to="none", save_strategy="no",
    disable_tqdm=True, seed=0, **more,
)  # fmt: skip
data = Dataset.from_list([{"input_ids": tokens} for tokens in rows])
trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
memory = Memory()
trainer.train()
told = [each["num_tokens"] for each in trainer.state.log_history if "num_tokens" in each][:steps]
tokens = [after - before for before, after in zip([0, *told], told, strict=False)]
print(json.dumps({
    "seconds": [round(each, 5) for each in seconds[WARM:steps]], "tokens": tokens[WARM:steps], "precision": settings["precision"],
    "settings": {"batch": settings["trl_batch"], **more, "attention": model.config._attn_implementation},
    "flops_per_token": flops_per_token(shape, [len(tokens) for tokens in rows]), **memory.peaks(),
}))  # fmt: skip
