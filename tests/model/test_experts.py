"""DeepSeekMoE against loops over tokens and experts, and routing by hand.  [V3 Eq. 12-16]"""

import pytest
import torch
from torch.nn import functional as F

from afterbase.model.balance import Trace
from afterbase.model.config import ModelConfig
from afterbase.model.moe import MoE, Router
from afterbase.segments import Segments

SIZES = {
    "model_type": "deepseek_v3", "vocab_size": 10, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 8, "kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2, "n_routed_experts": 6,
    "num_experts_per_tok": 2, "moe_intermediate_size": 5,
}  # fmt: skip


def layer_of(**changes) -> MoE:
    layer = MoE(ModelConfig.from_hf({**SIZES, **changes}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.dim() == 1 else 0.7))
    return layer


def by_loops(layer: MoE, hidden: torch.Tensor, copies: int, normalize: bool, factor: float) -> torch.Tensor:
    """Every token asks its experts one after the other."""

    def swiglu(token, gate, up, down):
        return down @ (F.silu(gate @ token) * (up @ token))

    outputs = []
    for token in hidden:
        affinity = [torch.sigmoid(centroid @ token) for centroid in layer.gate.weight]
        order = sorted(range(len(affinity)), key=lambda e: -(affinity[e] + layer.gate.e_score_correction_bias[e]).item())[:copies]
        total = sum(affinity[e] for e in order) if normalize else 1.0
        shared = layer.shared_experts
        output = swiglu(token, shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight)
        for e in order:
            stack = layer.experts
            output = output + factor * affinity[e] / total * swiglu(token, stack.gate_proj[e], stack.up_proj[e], stack.down_proj[e])
        outputs.append(output)
    return torch.stack(outputs)


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("width", [6, 8])
@pytest.mark.parametrize(("copies", "normalize", "factor", "shared"), [(2, True, 2.5, 1), (1, True, 1.0, 1), (3, False, 1.0, 2)])
def test_sorted_experts_are_a_loop_over_tokens(tokens, width, copies, normalize, factor, shared):
    """Forward, and the gradients of the tokens, the router and every expert; three tokens leave some experts idle.

    Width 8 fits the grouped kernel, width 6 does not.
    """
    sizes = {"hidden_size": width, "moe_intermediate_size": width - 4}
    layer = layer_of(num_experts_per_tok=copies, norm_topk_prob=normalize, routed_scaling_factor=factor, n_shared_experts=shared, **sizes)
    hidden = torch.randn(tokens, width, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(tokens, width, generator=torch.Generator().manual_seed(2))
    wanted = by_loops(layer, hidden, copies, normalize, factor)
    found = layer(hidden, Segments.of([tokens]), None)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    inputs = (hidden, *layer.parameters())
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    loops = torch.autograd.grad((wanted * weight).sum(), inputs, allow_unused=True)
    for mine, theirs in zip(ours, loops, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs, atol=1e-5, rtol=1e-4)


QWEN = {
    "model_type": "qwen3_moe", "n_routed_experts": None, "kv_lora_rank": None, "num_key_value_heads": 1, "num_experts": 6,
}  # fmt: skip


def by_shares(layer: MoE, hidden: torch.Tensor, copies: int, normalize: bool, factor: float, allowed) -> torch.Tensor:
    """Every token asks the experts that softmax gives most, among those allowed, one after the other."""
    outputs = []
    for token in hidden:
        scores = torch.stack([centroid @ token for centroid in layer.gate.weight])
        share = scores.exp() / scores.exp().sum()
        order = sorted(allowed(share), key=lambda e: -share[e].item())[:copies]
        total = sum(share[e] for e in order) if normalize else 1.0
        output = torch.zeros_like(token) if layer.shared_experts is None else layer.shared_experts(token[None])[0]
        for e in order:
            stack = layer.experts
            inner = F.silu(stack.gate_proj[e] @ token) * (stack.up_proj[e] @ token)
            output = output + factor * share[e] / total * (stack.down_proj[e] @ inner)
        outputs.append(output)
    return torch.stack(outputs)


def best_two_of_three(share: torch.Tensor) -> list[int]:
    """Experts 0 1 | 2 3 | 4 5: those of the two groups whose best expert is best."""
    groups = sorted(range(3), key=lambda g: -max(share[2 * g], share[2 * g + 1]).item())[:2]
    return [e for g in groups for e in (2 * g, 2 * g + 1)]


LIMITED = {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2, "routed_scaling_factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "normalize", "factor", "allowed"),
    [
        ({**QWEN, "norm_topk_prob": True}, True, 1.0, lambda share: range(6)),
        ({**QWEN, "norm_topk_prob": False}, False, 1.0, lambda share: range(6)),
        ({"model_type": "deepseek_v2", "topk_method": "greedy", "n_group": 3}, False, 1.0, lambda share: range(6)),
        (LIMITED, False, 4.0, best_two_of_three),
    ],
    ids=["qwen3 normalized", "qwen3", "v2 lite", "v2 groups"],
)
def test_experts_by_softmax_are_a_loop_over_tokens(changes, normalize, factor, allowed):
    """Forward, and every gradient; shares of one have no bias, and Qwen3 no shared experts."""
    layer = layer_of(**changes)
    assert layer.gate.e_score_correction_bias is None and (layer.shared_experts is None) == (changes["model_type"] == "qwen3_moe")
    hidden = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    wanted = by_shares(layer, hidden, 2, normalize, factor, allowed)
    found = layer(hidden, Segments.of([30]), None)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    inputs = (hidden, *layer.parameters())
    for mine, theirs in zip(*(torch.autograd.grad((each * weight).sum(), inputs) for each in (found, wanted)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_no_token_is_dropped_however_crowded_an_expert_is():
    """All 50 tokens want experts 0 and 1, and each gets both."""
    layer = layer_of()
    with torch.no_grad():
        layer.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 8.0, 0.0, 0.0, 0.0, 0.0]))
    hidden, trace = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)), Trace()
    found = layer(hidden, Segments.of([50]), trace)
    assert trace.loads[layer.gate].tolist() == [50, 50, 0, 0, 0, 0]
    torch.testing.assert_close(found, by_loops(layer, hidden, 2, True, 1.0), atol=1e-5, rtol=1e-5)


def router_with(affinities: list[float], bias: list[float], **changes) -> Router:
    """A router whose affinities for the token (1, 0, 0, ...) are as given."""
    router = Router(ModelConfig.from_hf({**SIZES, "n_routed_experts": len(affinities), **changes}))
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, 0] = torch.tensor(affinities).logit()
        router.e_score_correction_bias.copy_(torch.tensor(bias))
    return router


def routed(router: Router) -> dict[int, float]:
    """Chosen expert -> gate, for the token (1, 0, 0, ...)."""
    chosen, gates, _ = router(torch.eye(6)[:1])
    return dict(sorted(zip(chosen[0].tolist(), [round(gate, 4) for gate in gates[0].tolist()], strict=True)))


def test_the_bias_chooses_but_never_weighs():
    """Without bias 0.8 and 0.6 win; a bias of 0.5 lifts 0.2 over 0.6, and its gate is still 0.2 of 0.8 + 0.2."""
    affinities = [0.8, 0.6, 0.2, 0.1]
    assert routed(router_with(affinities, [0.0] * 4)) == {0: round(0.8 / 1.4, 4), 1: round(0.6 / 1.4, 4)}
    assert routed(router_with(affinities, [0.0, 0.0, 0.5, 0.0])) == {0: 0.8, 2: 0.2}


def test_the_bias_gets_no_gradient():
    router = router_with([0.8, 0.6, 0.2, 0.1], [0.0] * 4)
    assert [name for name, _ in router.named_parameters()] == ["weight"]


def test_groups_count_by_their_two_best_experts():
    """Groups (0.9, 0.1), (0.6, 0.5), (0.3, 0.2) score 1.0, 1.1, 0.5: with two groups allowed 0.3 is out, with one so is 0.9."""
    affinities = [0.9, 0.1, 0.6, 0.5, 0.3, 0.2]
    assert list(routed(router_with(affinities, [0.0] * 6, n_group=3, topk_group=1))) == [2, 3]
    assert list(routed(router_with(affinities, [0.0] * 6, n_group=3, topk_group=2))) == [0, 2]
    assert list(routed(router_with(affinities, [0.0] * 6, n_group=3, topk_group=2, num_experts_per_tok=4))) == [0, 1, 2, 3]


def test_a_struck_out_group_stays_out_when_biases_are_negative():
    """All allowed scores are below 0 here; experts outside the group must not win by having been set to 0."""
    assert list(routed(router_with([0.3, 0.2, 0.1, 0.1], [-1.0] * 4, n_group=2, topk_group=1))) == [0, 1]
