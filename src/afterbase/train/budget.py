"""The memory that training takes on one GPU, part by part, from configurations alone: what `afterbase plan` adds up.

Products in float8 are taken for bfloat16's, and adapters for nothing: they are a hundredth of the model.

A pass has two moments that count. While the head reads the learned tokens, everything that the pass keeps is there, and some logits; when
the gradient enters the last block, so is everything, and that block's own scratch. The greater one is the peak. The gradients of an earlier
pass are there from a step's second pass on; in its only one they come as what was kept goes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from afterbase.model.config import ModelConfig
from afterbase.model.footprint import Weights, ends, kept, kept_in_float32, weights, working
from afterbase.model.parallel.mesh import Sizes
from afterbase.train.trainer import TrainerConfig

ALONE = Sizes(1, 1, 1, 1)
LOGITS, KEPT, ROWS = 1 << 28, 1 << 32, 128
"""As in model/cuda/vocabulary.py, which needs Triton: a test holds them against each other."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of one GPU by what they are for."""

    weights: int = 0
    """The parameters."""
    gradients: int = 0
    """In float32."""
    optimizer: int = 0
    """Masters and moments."""
    copies: int = 0
    """Of weights in half precision, which products read; and under FSDP2 what is gathered of them."""
    activations: int = 0
    """What a pass keeps for the way back."""
    logits: int = 0
    """What the head takes at its most."""
    scratch: int = 0
    """What a block's backward pass takes besides."""
    host: int = 0
    """On the host, where states are offloaded."""

    @property
    def standing(self) -> int:
        """What is there between two passes."""
        return self.weights + self.gradients + self.optimizer + self.copies

    @property
    def passing(self) -> int:
        """What one pass adds at its most."""
        return self.activations + max(self.logits, self.scratch)

    @property
    def peak(self) -> int:
        """At most at a time."""
        return self.standing + self.passing


def training(config: ModelConfig, trainer: TrainerConfig, tokens: int, learned: int, sizes: Sizes = ALONE, passes: int = 2) -> Budget:
    """The budget of a rank whose passes have `tokens` tokens, of which `learned` go through the head; a mesh may cut it in `sizes`.

    `passes` make up a step: one, or several.
    """
    here = -(-tokens // sizes.context)
    reading = -(-learned // (sizes.context * sizes.tensor))
    head, lasting = logits(config, trainer, reading)
    kept_here, taken = activations(config, trainer, here, sizes), scratch(config, trainer, here, sizes)
    at_last = max(0, _embedding(config, trainer) - kept_here)  # nothing else is left of the pass by then
    budget = replace(_states(config, trainer, sizes), activations=kept_here, logits=head, scratch=max(taken + lasting, at_last))
    return budget if passes > 1 else replace(budget, gradients=max(0, budget.gradients - budget.passing))


def scoring(config: ModelConfig, trainer: TrainerConfig) -> Budget:
    """The budget of a model that is only asked, such as a reference: its weights and the copies of them."""
    count = weights(config)
    return Budget(weights=_held(count, trainer), copies=_copied(weights(_asked(config, trainer)), trainer))


def activations(config: ModelConfig, trainer: TrainerConfig, tokens: int, sizes: Sizes = ALONE) -> int:
    """What a pass of so many tokens keeps."""
    half, layers = trainer.precision != "float32", config.num_hidden_layers
    again = min(trainer.recompute, layers)
    width = config.hidden_size
    kinds = [_block(config, trainer, config.is_moe(layer), sizes) for layer in range(layers)]
    small = again * (6 if half else 8) * width - (0 if not again else (2 if half else 4) * width)  # the first block reads no addend
    total = small + sum(kinds[again:]) + (ends(config) if half else 2 * ends(config))
    for depth in range(_ahead(config, trainer)):
        total += 32 * width + _block(config, trainer, config.is_moe(layers + depth), sizes)
    return tokens * total


def logits(config: ModelConfig, trainer: TrainerConfig, learned: int) -> tuple[int, int]:
    """What the head takes at its most; and what of it stays while the gradient passes through the blocks."""
    width, rows, half = config.hidden_size, config.vocab_size, trainer.precision != "float32"
    item = 2 if half else 4
    heads = 1 + _ahead(config, trainer)
    keeping = half and learned * rows <= KEPT
    slopes = heads * 2 * learned * rows if keeping else 0
    chunks = 4 * _held_at_once(learned, rows) * rows
    copy = 2 * rows * width if half and trainer.weights == "float32" else 0
    states = heads * item * learned * width
    gradient = 0 if trainer.lora else 4 * rows * width
    columns = _held_at_once(rows, learned)
    again = 0 if keeping else learned * (4 * width + columns * (4 + item))  # logits, and slopes in their dtype
    forward = slopes + chunks + copy
    backward = slopes + gradient + copy + (10 if half else 8) * learned * width + again
    return states + max(forward, backward), gradient if config.tie_word_embeddings else 0


def _held_at_once(wanted: int, others: int) -> int:
    """Rows, for so many columns, or columns, of which the logits are held at once."""
    fitting = LOGITS // max(others, 1)
    return min(wanted, max(1, fitting // ROWS * ROWS or fitting))


def scratch(config: ModelConfig, trainer: TrainerConfig, tokens: int, sizes: Sizes = ALONE) -> int:
    """What the backward pass through a block takes, of the kind that takes most."""
    layers, half = config.num_hidden_layers, trainer.precision != "float32"
    taken = []
    for routed in {*map(config.is_moe, range(layers))}:
        # Where every block is computed again, the one whose turn it is is there as a whole; what it reads it has kept already.
        whole = tokens * (_block(config, trainer, routed, sizes) - 4 * config.hidden_size) if trainer.recompute >= layers else 0
        taken.append(whole + working(config, routed, tokens, sizes.tensor, sizes.expert) * (1 if half else 2))
    return max(taken)


def _embedding(config: ModelConfig, trainer: TrainerConfig) -> int:
    """The gradient of the embedding; where it is the head too, that one's, and their sum."""
    return 0 if trainer.lora else 4 * config.vocab_size * config.hidden_size * (3 if config.tie_word_embeddings else 1)


def _asked(config: ModelConfig, trainer: TrainerConfig) -> ModelConfig:
    """The model without modules that are never run."""
    return replace(config, num_nextn_predict_layers=_ahead(config, trainer))


def _ahead(config: ModelConfig, trainer: TrainerConfig) -> int:
    return config.num_nextn_predict_layers if trainer.mtp else 0


def _block(config: ModelConfig, trainer: TrainerConfig, routed: bool, sizes: Sizes) -> int:
    if trainer.precision == "float32":
        return kept_in_float32(config, routed, sizes.tensor)
    return kept(config, routed, sizes.tensor, apart=sizes != ALONE)


def _held(count: Weights, trainer: TrainerConfig) -> int:
    return count.halved * (2 if trainer.weights == "bfloat16" else 4) + 4 * (count.routers + count.vectors)


def _copied(count: Weights, trainer: TrainerConfig) -> int:
    """What products read where it is not the weights themselves; autocast casts the joints anew."""
    if trainer.precision == "float32":
        return 0
    if trainer.weights == "bfloat16":
        return 2 * (count.abreast + count.experts * 2 // 3)
    return 2 * (count.matrices + count.experts + count.joints)


def _moments(count: Weights, trainer: TrainerConfig) -> int:
    if trainer.optim.kind == "adamw":
        return 8 * count.total
    hidden = count.matrices + count.experts + count.joints
    return 4 * hidden + 8 * (count.total - hidden)


def _states(config: ModelConfig, trainer: TrainerConfig, sizes: Sizes) -> Budget:
    """What is there between passes."""
    count, asked = weights(config), weights(_asked(config, trainer))
    if sizes != ALONE:
        return _shared(count, asked, trainer, sizes, config)
    masters = 4 * count.halved if trainer.weights == "bfloat16" else 4 * count.total if trainer.offload else 0
    if trainer.lora:
        return Budget(_held(count, trainer), copies=_copied(asked, trainer))
    moments = _moments(asked, trainer)
    if trainer.offload:  # a gradient arrives beside its master
        return Budget(_held(count, trainer), 4 * asked.total, 0, _copied(asked, trainer), host=4 * count.total + moments + 4 * asked.total)
    return Budget(_held(count, trainer), 4 * asked.total, masters + moments, _copied(asked, trainer))


def _shared(count: Weights, asked: Weights, trainer: TrainerConfig, sizes: Sizes, config: ModelConfig) -> Budget:
    """A rank's share under FSDP2: float32 throughout, two blocks gathered at a time, embedding and head for the whole pass."""
    shards, cut = sizes.data * sizes.context * sizes.expert, sizes.tensor

    def share(own: Weights) -> int:
        routed = own.experts // (shards * cut)
        return routed + own.matrices // (shards * cut) + (own.embedding + own.head + own.joints) // shards + own.routers + own.vectors

    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    block = (count.matrices // cut + count.experts // (sizes.expert * cut)) // layers
    gathered = 2 * (2 if trainer.precision != "float32" else 4) * block + 4 * block  # two of them, and one's gradient on its way
    ends_of_it = 8 * (count.embedding + count.head)  # in float32, and its gradient
    return Budget(4 * share(count), 4 * share(asked), 8 * share(asked), gathered + ends_of_it)
