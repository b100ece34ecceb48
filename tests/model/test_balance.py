"""Keeping experts equally busy, by hand.  [V3 Eq. 16-20]"""

import pytest
import torch

from afterbase.model.balance import Trace, sequence_balance, update_bias
from afterbase.model.config import ModelConfig
from afterbase.model.moe import MoE, Router
from afterbase.segments import Segments


def router(experts: int) -> Router:
    sizes = dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 2)
    return Router(ModelConfig("deepseek_v3", **sizes, intermediate_size=2, n_routed_experts=experts, num_experts_per_tok=1))


def test_even_routing_costs_one():
    """Four tokens, four experts, each used once, affinities equal: sum f_i P_i = 4 * (1 * 1/4)."""
    loss = sequence_balance(torch.full((4, 4), 0.3), torch.arange(4)[:, None], Segments.of([4]))
    assert loss.item() == pytest.approx(1.0)


def test_one_expert_for_all_costs_the_number_of_experts():
    """All tokens at expert 0 with all the affinity: f_0 = 3, P_0 = 1."""
    affinity = torch.tensor([[0.5, 0.0, 0.0]]).expand(5, 3)
    assert sequence_balance(affinity, torch.zeros(5, 1, dtype=torch.long), Segments.of([5])).item() == pytest.approx(3.0)


def test_a_small_example():
    """Two tokens, K = 1, N = 2. Token 0 has shares 3/4, 1/4 and goes to 0; token 1 has 1/2, 1/2 and goes to 0 as well.

    f = (2 * 2 / 2, 0) = (2, 0), P = (5/8, 3/8), so the sum is 10/8.
    """
    affinity = torch.tensor([[0.9, 0.3], [0.4, 0.4]])
    assert sequence_balance(affinity, torch.tensor([[0], [0]]), Segments.of([2])).item() == pytest.approx(1.25)


def test_a_stream_costs_the_mean_of_its_sequences():
    """One sequence of cost 3 and one, three times as long, of cost 1: the mean is 2, whatever their lengths."""
    one_sided, even = torch.tensor([[0.5, 0.0, 0.0]]), torch.full((3, 3), 0.2)
    chosen = torch.tensor([[0], [0], [1], [2]])
    assert sequence_balance(torch.cat((one_sided, even)), chosen, Segments.of([1, 3])).item() == pytest.approx(2.0)


def test_its_gradient_pulls_affinity_from_the_busy_expert():
    affinity = torch.full((4, 2), 0.5, requires_grad=True)
    sequence_balance(affinity, torch.tensor([[0], [0], [0], [1]]), Segments.of([4])).backward()
    assert (affinity.grad[:, 0] > 0).all() and (affinity.grad[:, 1] < 0).all()


def test_each_bias_moves_by_gamma_towards_balance():
    """Loads 5, 1, 3, 3 average 3: the first is lowered, the second raised, the others stay. The busiest has 5/3 of its share."""
    gate = router(4)
    metrics = update_bias({gate: torch.tensor([5, 1, 3, 3])}, 0.01)
    assert gate.e_score_correction_bias.tolist() == pytest.approx([-0.01, 0.01, 0.0, 0.0])
    assert metrics == {"train/expert_load/max_over_mean": pytest.approx(5 / 3), "train/idle_experts/max": 0.0}


def test_the_worst_layer_is_told():
    """Of busy experts it is the second layer, of idle ones the third, in which one of four saw no token."""
    loads = [5, 5, 5, 5], [16, 2, 1, 1], [0, 7, 7, 6]
    metrics = update_bias({router(4): torch.tensor(load) for load in loads}, 0.0)
    assert metrics == {"train/expert_load/max_over_mean": pytest.approx(3.2), "train/idle_experts/max": 0.25}


def test_routers_without_a_bias_are_counted_and_left_alone(tiny, random_tokens):
    """Experts chosen by shares of one are balanced by the loss alone."""
    model, trace = tiny("qwen3_moe"), Trace(alpha=0.5)
    model(torch.tensor(random_tokens(9)), Segments.of([9]), trace=trace)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert update_bias(trace.loads, 0.01)["train/expert_load/max_over_mean"] >= 1.0 and trace.take_loss() > 0
    assert [int(load.sum()) for load in trace.loads.values()] == [27, 27]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_experts_has_nothing_to_tell():
    assert update_bias({}, 0.01) == {}


def test_a_trace_adds_up_the_forward_passes_of_a_step(tiny, random_tokens):
    """12 and 5 tokens at 2 experts each are 34; each pass leaves one loss a layer, to be taken once."""
    model, trace = tiny("deepseek_v3", num_hidden_layers=3), Trace(alpha=0.5)
    for length in (12, 5):
        model(torch.tensor(random_tokens(length)), Segments.of([length]), trace=trace)
        assert trace.take_loss() > 2 * 0.5 * 0.9
        assert trace.take_loss() is None
    layers = [module.gate for module in model.modules() if isinstance(module, MoE)]
    assert list(trace.loads) == layers and [int(load.sum()) for load in trace.loads.values()] == [34, 34]


def test_without_alpha_no_balance_loss_is_computed(tiny, random_tokens):
    trace = Trace()
    tiny("deepseek_v3")(torch.tensor(random_tokens(4)), Segments.of([4]), trace=trace)
    assert trace.take_loss() is None and len(trace.loads) == 1
