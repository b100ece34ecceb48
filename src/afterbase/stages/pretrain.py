"""A small tokenizer and a base model, trained on a procedural crawl: documents packed and isolated, some with their middle last."""

from __future__ import annotations

from math import nan
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from pydantic import Field, field_validator

from afterbase.config import Config
from afterbase.curate.crawl import Crawl, CrawlConfig
from afterbase.dist import here
from afterbase.errors import ConfigError, DataError
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.objective.likelihood import Likelihood
from afterbase.records import Sample
from afterbase.stages.fitting import certain, refuse_what_cannot_fit
from afterbase.stages.graph import count_parameters
from afterbase.stages.run import Run, StageKind
from afterbase.stages.together import begin
from afterbase.text.chat import HOUSE_TEMPLATE
from afterbase.text.fim import prefix_suffix_middle
from afterbase.text.tokenizer import EOS, SPECIAL, Tokenizer, train_bpe
from afterbase.train.resume import SavingConfig
from afterbase.train.trainer import TrainerConfig


class PretrainConfig(Config):
    """A base model from nothing."""

    architecture: dict[str, Any]
    """The model's config.json as a table, `vocab_size` included: how large the tokenizer may become."""
    crawl: CrawlConfig
    """What is read."""
    tokenizer_documents: int = Field(2000, gt=0)
    """Documents that the tokenizer is trained on."""
    fill_in_middle: float = Field(0.1, ge=0, le=1)
    """Share of documents in prefix-suffix-middle order."""
    steps: int = Field(gt=0)
    """Optimizer updates."""
    tokens_per_step: int = Field(8192, gt=0)
    """Tokens of each update, in whole documents."""
    trainer: TrainerConfig = TrainerConfig()
    """How the model is updated."""
    saving: SavingConfig = SavingConfig()
    """When checkpoints are written."""
    seed: int = 0
    """Fixes the weights' start and every document."""

    @field_validator("architecture")
    @classmethod
    def _is_a_models(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        try:
            ModelConfig.from_recipe(architecture, "")
        except ConfigError as error:
            raise ValueError(str(error).removeprefix(": ")) from None
        return architecture


def run_pretrain(config: PretrainConfig, run: Run) -> None:
    """Train from the first step, or from the latest checkpoint, to the last."""
    architecture = ModelConfig.from_recipe(config.architecture)
    refuse_what_cannot_fit(architecture, config.trainer, certain(config.trainer, config.tokens_per_step))
    crawl = Crawl(config.crawl, config.seed)
    session = begin(run, lambda: _fresh(config, architecture, crawl), config.trainer, config.saving, config.steps)
    reader = Reader(config, crawl, session.tokenizer, session.context, session.cursor or 0)
    objective = Likelihood()
    with run.progress(config.steps, "pretrain", session.step) as progress:
        for step in range(session.step, config.steps):
            began = perf_counter()
            samples = reader.take(config.tokens_per_step)
            metrics = session.learn(session.batches(samples), objective)
            tokens = sum(len(sample.tokens) for sample in samples)
            run.tracker.log(step, {**metrics, "train/tokens/count": tokens, "train/documents/count": len(samples)})
            run.tracker.time(step, {"time/step/seconds": perf_counter() - began})
            session.save_if_due(reader.next, metrics)
            progress.advance(1, loss=metrics.get("train/loss/mean", nan))
    session.finish({"loss": session.last.get("train/loss/mean")})


class Reader:
    """Deals documents as samples, each with its end token, in order and without end."""

    def __init__(self, config: PretrainConfig, crawl: Crawl, tokenizer: Tokenizer, context: int, first: int) -> None:
        self.config, self.crawl, self.tokenizer, self.context, self.next = config, crawl, tokenizer, context, first

    def take(self, tokens: int) -> list[Sample]:
        """Whole documents until `tokens` are reached."""
        samples, taken = [], 0
        while taken < tokens:
            samples.append(self._sample(self.next))
            taken += len(samples[-1].tokens)
            self.next += 1
        return samples

    def _sample(self, index: int) -> Sample:
        rng = Random(f"{self.config.seed}/fim/{index}")
        document = self.crawl.document(index)
        rearranged = rng.random() < self.config.fill_in_middle
        text = prefix_suffix_middle(document, rng) if rearranged else document + EOS
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
        if len(ids) > self.context:
            raise DataError(
                f"document {index} has {len(ids)} tokens, the model's context {self.context}; raise max_position_embeddings "
                "in the architecture or choose shorter problems"
            )
        return Sample(tuple(ids), (False,) + (True,) * (len(ids) - 1))


def _fresh(config: PretrainConfig, architecture: ModelConfig, crawl: Crawl) -> tuple[Transformer, Tokenizer]:
    """A tokenizer trained on the first documents, and a model with fresh weights."""
    tokenizer = train_bpe(crawl.documents(0, config.tokenizer_documents), architecture.vocab_size, list(SPECIAL), HOUSE_TEMPLATE)
    try:
        return Transformer(architecture).initialize(config.seed).to(here().device), tokenizer
    except RuntimeError as error:  # torch's out-of-memory errors, on either kind of device
        if "memory" not in str(error):
            raise
        size = count_parameters(architecture.kept)
        raise ConfigError(
            f"a model of {size:,} parameters does not fit into memory ({str(error).splitlines()[0]}); make the architecture smaller"
        ) from None


def _size(config: PretrainConfig) -> dict[str, int]:
    parameters = count_parameters(ModelConfig.from_recipe(config.architecture).kept)
    return {"parameters": parameters, "steps": config.steps, "tokens per step": config.tokens_per_step}


def _artefact(config: PretrainConfig, directory: Path) -> Path:
    return directory / "checkpoints" / "final"


STAGE = StageKind(config=PretrainConfig, run=run_pretrain, inputs=lambda config: {}, artefact=_artefact, size=_size, together=True)
