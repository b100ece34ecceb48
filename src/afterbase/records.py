"""The nouns that flow down the river: prompts, completions, scores, rollouts, and the batches that are learned from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from afterbase.segments import Segments

Outcome = Literal["correct", "wrong", "no_answer", "timeout", "error"]
Finish = Literal["stop", "length", "failed"]
Entropy = Literal["unused", "measured", "learned"]
"""What an objective does with the entropy of the next-token distributions: nothing, a metric, or a term of the loss."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, e.g. Message("user", "What is 2 + 2?")."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks; a tool speaks only in rollouts of several turns."""
    content: str
    """What is said; an assistant's thinking stands in it between <think> and </think>."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question for the model and what is needed to judge the answer.

    E.g. Prompt("gsm8k-test-7", (Message("user", "What is 2 + 2?"),), domain="math", answer="4").
    """

    id: str
    """Unique within its source and stable between runs."""
    messages: tuple[Message, ...]
    """The conversation so far; ends with the user's turn."""
    domain: str = "math"
    """Which rewards judge it and how metrics are grouped."""
    answer: str | None = None
    """The reference answer, when there is one."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of the row, for rewards that need them."""

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn, e.g. Sampling(temperature=1.0, max_tokens=64, seed=7).

    Each token's logits go, in this order, through the repetition penalty, the frequency and presence penalties, the bias, `min_tokens`, the
    temperature, top-k and min-p, and of what these keep through top-p. Then one is drawn, or at temperature 0 the best one taken.
    """

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability; 1 keeps all."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    max_tokens: int = 256
    """At most this many new tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end the completion; the text is kept up to and including the stop string."""
    stop_ids: tuple[int, ...] = ()
    """Token ids that end the completion, the end-of-sequence token among them."""
    seed: int = 0
    """Fixes the draw of this request, whatever shares its batch; sample i of n uses its own stream of this seed."""
    min_p: float = 0.0
    """Keep the tokens that are at least this share as probable as the most probable one; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of every token that stands in the prompt or the answer so far [CTRL]; 1
    changes nothing."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that stands in the answer so far, once [OpenAI]."""
    frequency_penalty: float = 0.0
    """Taken off the logit of every token as often as it stands in the answer so far [OpenAI]."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number) pairs; the number is added to the token's logit: at common temperatures -100 bans it and 100 lets nothing else."""
    min_tokens: int = 0
    """Among the first so many new tokens no stop id is drawn, and no stop string ends the completion; max_tokens and the context do."""

    @property
    def truncated(self) -> bool:
        """Whether some tokens are cut off for being improbable."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    @property
    def penalised(self) -> bool:
        """Whether what was said before matters beyond the model itself."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def steered(self) -> bool:
        """Whether logits are changed before the temperature divides them."""
        return self.penalised or bool(self.logit_bias) or (self.min_tokens > 0 and bool(self.stop_ids))

    @property
    def whole(self) -> bool:
        """Whether tokens are drawn from the full distribution at the temperature, so that their two log-probabilities are one."""
        return self.temperature > 0 and not self.truncated and not self.steered


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine drew for one request, token by token."""

    tokens: tuple[int, ...]
    """The new tokens, a stop id included; in a rollout of several turns everything after the prompt, what tools and users said too."""
    logprobs: tuple[float, ...]
    """Each token's log-probability under the full distribution at the sampling temperature (greedy: at 1), as the model has it, before any
    penalty, bias, `min_tokens` or truncation: what the trainer will recompute. 0 for tokens that are not the model's own."""
    sampled_logprobs: tuple[float, ...]
    """Each token's log-probability under the distribution that it was really drawn from, with penalties, bias, `min_tokens` and truncation
    (greedy: 0). The importance ratio of what was sampled is exp(logprobs - sampled_logprobs)."""
    version: int
    """Which weights drew it: the number given to `load`."""
    finish: Finish
    """Why it ended: a stop id or string, the token limit, or a failure."""
    own: tuple[bool, ...] = ()
    """Which tokens the model drew itself: the only ones that are learned. Empty means all of them."""
    turns: int = 1
    """How often the model spoke, with a reply of the environment in between."""
    tool_failures: int = 0
    """How often the environment's machine failed: a fault of ours, never of the model."""
    reason: str = ""
    """Why it failed, for a human."""

    @property
    def length(self) -> int:
        """How many tokens the model drew itself."""
        return sum(self.own) if self.own else len(self.tokens)


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward thought of one rollout, e.g. Score(1.1, {"accuracy": 1.0, "format": 0.1}, "correct", "<answer> 42 = 42")."""

    value: float
    """The number Eq. 28 sees."""
    parts: dict[str, float]
    """Each part before weighting, for the log."""
    outcome: Outcome
    """What was found; `error` (the verifier failed, not the model) masks the sample and is never a reward of 0."""
    note: str = ""
    """One line for the human who reads the rollout."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One prompt answered once: the tokens that were seen and drawn, the text, and later its score."""

    prompt: Prompt
    """What was asked."""
    prompt_tokens: tuple[int, ...]
    """The rendered prompt exactly as the engine saw it."""
    completion: Completion
    """What was drawn."""
    text: str
    """The completion as text, special tokens left out; thinking tags are kept."""
    score: Score | None = None
    """None until judged."""
    seed: int = 0
    """Of its group's draws: with the prompt and its place in the group, the same weights draw it again."""

    def judged(self, score: Score) -> Rollout:
        """The same rollout with its score."""
        return replace(self, score=score)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to learn from, e.g. Sample((5, 9, 2), (False, True, True)) learns 9 and 2 after 5."""

    tokens: tuple[int, ...]
    """The whole sequence."""
    learn: tuple[bool, ...]
    """Which tokens the loss covers; the first token is never predicted and so never covered."""
    weight: float = 1.0
    """Scales this sequence's loss."""
    advantage: float = 0.0
    """A_i of Eq. 28 (RL only)."""
    old: tuple[float, ...] = ()
    """log pi_old of the learned tokens: under the policy that the update starts from, or the one that drew them (RL only)."""
    reference: tuple[float, ...] = ()
    """Log-probabilities of the learned tokens under the reference model (RL with a KL term only)."""
    behaviour: tuple[float, ...] = ()
    """Log-probabilities of the learned tokens under the very distribution they were drawn from: older weights, top-p (RL only)."""
    advantages: tuple[float, ...] = ()
    """One advantage for each learned token, in place of `advantage` (PPO only)."""
    values: tuple[float, ...] = ()
    """What the critic expected at each learned token before the update (PPO only)."""
    returns: tuple[float, ...] = ()
    """What it should have expected there (PPO only)."""
    temperature: float = 1.0
    """What the logits were divided by when it was drawn, and are again when it is learned."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A packed stream to learn from; everything per learned token is [P], in stream order."""

    tokens: Tensor
    """[T] int64, the stream."""
    segments: Segments
    """Where its sequences begin."""
    picked: Tensor
    """[P] int64, stream positions of the learned tokens; never a sequence's first."""
    owner: Tensor
    """[P] int64, which sequence of this batch each learned token belongs to."""
    weights: Tensor
    """[P] float32, the weight of each learned token."""
    advantages: Tensor
    """[P] float32, the advantage of each learned token, which GRPO gives to all of a sequence alike; zeros outside RL."""
    old: Tensor | None
    """[P] float32, log pi_old; None outside RL."""
    reference: Tensor | None
    """[P] float32, log pi_ref; None without a KL term."""
    total_tokens: int
    """Learned tokens in the whole optimizer step, over all its batches: the divisor of a token mean."""
    total_sequences: int
    """Sequences in the whole optimizer step: the divisor of a sequence mean."""
    behaviour: Tensor | None = None
    """[P] float32, the log-probability under the distribution that was drawn from; None outside RL."""
    values: Tensor | None = None
    """[P] float32, the critic's expectation before the update; None outside PPO."""
    returns: Tensor | None = None
    """[P] float32, what the critic learns to expect; None outside PPO."""
    samples: tuple[int, ...] = ()
    """Which of the samples given to `pack` each sequence of the stream is."""
    temperature: float = 1.0
    """Divides the logits of the whole stream; samples of another temperature go into another one."""
