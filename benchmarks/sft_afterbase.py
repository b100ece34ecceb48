"""Our side: updates of a trainer from documents to weights, packing included."""

import json
import sys
from pathlib import Path

from afterbase.process import prepare

prepare()  # as the command line does

import torch
from common import Memory, now
from sft import documents, flops_per_token

from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.stages.session import learn
from afterbase.train.packing import pack
from afterbase.train.trainer import LocalTrainer, TrainerConfig

settings = json.loads(sys.argv[1])
shape, work, steps = settings["shape"], settings["work"], settings["steps"]
WARM = min(3, steps - 1)
cuda = torch.cuda.is_available()
if not cuda:
    torch.set_num_threads(settings["threads"])
device = torch.device("cuda" if cuda else "cpu")


def fresh() -> Transformer:
    torch.manual_seed(0)
    with device:
        model = Transformer(ModelConfig.from_hf(shape))
        for name, parameter in model.named_parameters():
            parameter.data.normal_(0, 0.0 if name.endswith("bias") else 0.02) if not name.endswith("norm.weight") else None
    return model


asked = [[Sample(tuple(tokens), (True,) * len(tokens)) for tokens in update] for update in documents(work, steps, shape["vocab_size"])]
model = fresh()
parameters = sum(parameter.numel() for parameter in model.parameters())
more = json.loads(settings["trainer"])
config = TrainerConfig.model_validate({"precision": settings["precision"], "tokens_per_batch": settings["tokens_per_batch"], **more})
trainer = LocalTrainer(model, config, steps)
memory, seconds, tokens = Memory(), [], []


def update(samples: list[Sample]) -> None:
    began = now()
    metrics = learn(trainer, pack(samples, config.tokens_per_batch, device), Likelihood())
    seconds.append(now() - began)
    tokens.append(sum(len(sample.tokens) for sample in samples))
    assert "train/skipped_updates/count" not in metrics


for samples in asked:
    update(samples)
if settings["profile"]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as taken:
        update(asked[-1])
    kernels = taken.key_averages().table(sort_by="self_cuda_time_total", row_limit=70, max_name_column_width=90)
    Path(settings["profile"]).write_text(kernels, encoding="utf-8")
counted = slice(WARM, steps)
lengths = [len(sample.tokens) for samples in asked for sample in samples]
print(json.dumps({
    "seconds": [round(each, 5) for each in seconds[counted]], "tokens": tokens[counted], "trainer": config.model_dump(mode="json"),
    "flops_per_token": flops_per_token(shape, lengths), "total_parameters": parameters, **memory.peaks(),
}))  # fmt: skip
