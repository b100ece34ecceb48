"""The model: one stream of tokens in, one hidden state per token out; the head is applied where it is needed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from afterbase.model.balance import Trace
from afterbase.model.block import Block
from afterbase.model.cache import CacheStep
from afterbase.model.config import ModelConfig
from afterbase.model.cuda import HALF
from afterbase.model.mtp import MTP
from afterbase.model.norm import RMSNorm
from afterbase.model.recompute import recomputed
from afterbase.model.rope import Rotary
from afterbase.model.rows import LookUp
from afterbase.segments import Segments


class Embedding(nn.Embedding):
    """One row a token; a token that comes often has its whole gradient in half precision too."""

    def forward(self, tokens: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        """The tokens' rows."""
        return LookUp.apply(self.weight, tokens) if self.weight.dtype in HALF else super().forward(tokens)


class Trunk(nn.Module):
    """Embedding, layers and final norm, under Hugging Face's prefix `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A causal language model whose parameters carry their Hugging Face names (experts stacked, MTP modules apart)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList(MTP(config, depth) for depth in range(1, config.num_nextn_predict_layers + 1))
        self.rotary = Rotary(config)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Int[Tensor, "T"],
        segments: Segments,
        cache: CacheStep | None = None,
        trace: Trace | None = None,
        recompute: int = 0,
    ) -> Float[Tensor, "T d"]:
        """The final hidden state of each token, normalized and ready for the head.

        The first `recompute` blocks keep nothing for the backward pass but what they read.
        """
        hidden, delta = residual(self.model.embed_tokens(tokens)), None
        rotation = self.rotary(segments.positions)
        for index, block in enumerate(self.model.layers):
            if index < recompute:
                hidden, delta = recomputed(block, hidden, delta, segments, rotation, trace)
                continue
            hidden, delta = block(hidden, delta, segments, rotation, cache.layer(index) if cache else None, trace)
        return self.model.norm.add(hidden, delta)[1]

    def logits(self, hidden: Float[Tensor, "N d"]) -> Float[Tensor, "N V"]:
        """The head on a few hidden states, in float32; for many, use `logprob.token_logprobs`, which never holds them all."""
        return self.lm_head(hidden).float()

    def look_ahead(
        self, hidden: Float[Tensor, "T d"], tokens: Int[Tensor, "T"], segments: Segments, trace: Trace | None = None, reaches: bool = True
    ) -> list[Float[Tensor, "T d"]]:
        """Each MTP module's states, ready for the head: entry k-1, row i predicts token i+k+1 of its sequence.  [V3 Eq. 21-23]

        Unless it `reaches` the trunk, no gradient passes on to the hidden states and the embedding.
        """
        rotation = self.rotary(segments.positions)
        hidden = hidden if reaches else hidden.detach()
        states = []
        for depth, module in enumerate(self.mtp, start=1):
            ahead = residual(self.model.embed_tokens(shifted(tokens, segments, depth)))
            hidden = module(hidden, ahead if reaches else ahead.detach(), segments, rotation, trace)
            states.append(module.norm(hidden))
        return states

    @torch.no_grad()
    def initialize(self, seed: int) -> Transformer:
        """Fresh weights: normal with the config's deviation, norms at one, biases at zero."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                fresh = torch.randn(parameter.shape, generator=generator) * self.config.initializer_range
                parameter.copy_(fresh)
        return self


def residual(embedded: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
    """The residual stream at its start: under autocast in float32, whatever the weights are held in."""
    return embedded.float() if torch.is_autocast_enabled(embedded.device.type) else embedded


def shifted(tokens: Int[Tensor, "T"], segments: Segments, by: int) -> Int[Tensor, "T"]:
    """Token i+by of the same sequence at place i; past a sequence's end its last token, which no loss reads.

    `tokens` are those of the whole stream, whatever part of it the segments are.
    """
    last = segments.whole.starts[1:].long()[segments.whole.owner[segments.places]] - 1
    return tokens[torch.minimum(segments.places + by, last)]
