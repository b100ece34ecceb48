"""Linear layers that learn in FP8: what is rounded, by how much, and what is not.  [Slides, Mixed Precision]"""

import copy

import pytest
import torch

from afterbase.model.block_scales import FP8
from afterbase.model.fp8 import Eighths, Scaled, product, scaled_both_ways, scaled_weights
from afterbase.model.fp8_experts import learn_in_fp8
from afterbase.model.joined import Joined
from afterbase.segments import Segments

HALF_STEP = 2.0**-4
"""Of e4m3's three bits: what rounding may move a number by, relatively."""
SMALLEST = 2.0**-10
"""Half of e4m3's smallest number: what rounding may move a number near zero by, in units of its scale."""


def noise(*shape, seed=0):
    """Numbers of many sizes, row by row and column by column."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(shape[0], 1, generator=generator).exp() * torch.randn(1, shape[1], generator=generator).exp()
    return torch.randn(shape, generator=generator) * sizes


def tile_by_tile(matrix: torch.Tensor) -> torch.Tensor:
    """What FP8 makes of a matrix with a scale for every 1 x 128, written as slowly as it can be."""
    rounded = matrix.clone()
    for row in rounded:
        for tile in row.split(128):
            scale = tile.abs().max() / 448
            tile.copy_((tile * scale.reciprocal()).to(FP8).float() * scale if scale else tile)
    return rounded


def block_by_block(matrix: torch.Tensor) -> torch.Tensor:
    rounded = matrix.clone()
    for strip in rounded.split(128):
        for block in strip.split(128, dim=1):
            scale = block.abs().max() / 448
            block.copy_((block * scale.reciprocal()).to(FP8).float() * scale if scale else block)
    return rounded


def same_sums(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether they are the sums of a @ b but for float32's rounding of each addend."""
    exact, size = a.double() @ b.double(), a.abs().double() @ b.abs().double()
    return bool(((found.double() - exact).abs() <= 1e-6 * size).all())


@pytest.mark.parametrize("shape", [(256, 384), (200, 130), (1, 1), (3, 129)])
def test_tiles_run_along_the_rows_and_of_the_transpose_along_the_columns(shape):
    matrix = noise(*shape)
    along, across = scaled_both_ways([matrix])
    assert torch.equal(along.wide()[: shape[0], : shape[1]], tile_by_tile(matrix))
    assert torch.equal(across.wide()[: shape[1], : shape[0]], tile_by_tile(matrix.T.contiguous()))
    assert along.wide().count_nonzero() <= matrix.count_nonzero() and along.numbers.shape == across.numbers.T.shape


@pytest.mark.parametrize("shape", [(256, 384), (200, 130), (1, 1), (3, 129)])
def test_a_weight_has_one_scale_for_each_block_and_its_transpose_the_same_numbers(shape):
    weight = noise(*shape)
    plain, turned = scaled_weights([weight])
    assert torch.equal(plain.wide()[: shape[0], : shape[1]], block_by_block(weight))
    assert torch.equal(plain.numbers.float(), turned.numbers.float().T) and torch.equal(plain.scales, turned.scales.T)


def test_no_number_is_rounded_by_more_than_half_a_step():
    """1/16 of itself, or 1/1024 of its tile's scale: in sum less than 1/16 of its tile's largest."""
    matrix = noise(128, 256)
    along, _ = scaled_both_ways([matrix])
    bound = (matrix.abs() * HALF_STEP).maximum(along.scales.repeat_interleave(128, 1) * SMALLEST)
    assert ((along.wide() - matrix).abs() <= bound * 1.0001).all()


def test_numbers_that_fp8_can_hold_are_held():
    """Multiples of 1/8 up to 14 with four bits, beside 448."""
    matrix = torch.randint(-14, 15, (128, 128), generator=torch.Generator().manual_seed(0)).float()
    matrix[:, 0], matrix[0, :] = 448.0, 448.0
    for kept in (*scaled_both_ways([matrix]), *scaled_weights([matrix])):
        assert torch.equal(kept.wide(), matrix if kept.wide()[1, 2] == matrix[1, 2] else matrix.T)
        assert (kept.scales == 1).all()


def test_a_tile_of_zeros_is_zeros():
    matrix = torch.zeros(130, 260)
    matrix[0, 0] = 3.0
    for kept in (*scaled_both_ways([matrix]), *scaled_weights([matrix])):
        assert kept.wide().count_nonzero() == 1 and kept.wide().isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_what_is_not_finite_comes_out_so(bad, where):
    hidden, weight = noise(5, 130), noise(7, 130, seed=1)
    {"hidden": hidden, "weight": weight}[where][2, 100] = bad
    out = product(scaled_both_ways([hidden])[0], scaled_weights([weight])[0], torch.bfloat16)[:5, :7]
    wrong = ~out.isfinite()
    assert wrong[2].all() if where == "hidden" else wrong[:, 2].all()
    assert where == "weight" or wrong.sum() == 7, "other tokens never see it"


@pytest.mark.parametrize("blocks", [True, False])
def test_a_product_is_that_of_the_rounded_matrices_and_within_the_bound_of_the_true_one(blocks):
    """Two factors, each moved by 1/16 at most: the sum of sizes times 1/8 and a bit."""
    a, b = noise(70, 300), noise(90, 300, seed=1)
    right = scaled_weights([b])[0] if blocks else scaled_both_ways([b])[0]
    found = product(scaled_both_ways([a])[0], right, torch.float32)[:70, :90].double()
    assert same_sums(found, tile_by_tile(a), (block_by_block if blocks else tile_by_tile)(b).T)
    scale = right.scales.repeat_interleave(len(right.numbers) // len(right.scales), 0).repeat_interleave(128, 1)[:90, :300]
    moved = (b.abs() * HALF_STEP).maximum(scale * SMALLEST)
    of_a = (a.abs() * HALF_STEP).maximum(scaled_both_ways([a])[0].scales.repeat_interleave(128, 1)[:70, :300] * SMALLEST)
    bound = of_a @ b.abs().T + a.abs() @ moved.T + of_a @ moved.T
    assert ((found - a.double() @ b.double().T).abs() <= bound * 1.001).all()


def layers(*widths, inner=150, bias=True):
    torch.manual_seed(0)
    return [torch.nn.Linear(inner, width, bias=bias) for width in widths]


def test_outputs_and_all_three_gradients_are_products_of_rounded_matrices():
    """Three layers of one input, none of whole tiles: each product by hand from tiles and blocks rounded one by one."""
    three, hidden = layers(130, 40, 128), noise(70, 150, seed=2).requires_grad_()
    outputs = Eighths(*three)(hidden)
    gradients = [noise(70, out.shape[1], seed=3) for out in outputs]
    torch.autograd.backward(outputs, gradients)
    for layer, out, gradient in zip(three, outputs, gradients, strict=True):
        torch.testing.assert_close(out - layer.bias, tile_by_tile(hidden.detach()) @ block_by_block(layer.weight.detach()).T)
        turned = gradient.T.contiguous(), hidden.detach().T.contiguous()
        assert same_sums(layer.weight.grad, tile_by_tile(turned[0]), tile_by_tile(turned[1]).T)
        torch.testing.assert_close(layer.bias.grad, gradient.sum(0))
    weights = torch.cat([block_by_block(layer.weight.detach()) for layer in three])
    assert same_sums(hidden.grad, torch.cat([tile_by_tile(gradient) for gradient in gradients], dim=1), weights)


def test_weights_are_scaled_once_a_version(monkeypatch):
    from afterbase.model import fp8

    made, real = [], scaled_weights
    monkeypatch.setattr(fp8, "scaled_weights", lambda weights: made.append(1) or real(weights))
    (layer,) = layers(40)
    joined = Eighths(layer)
    for _ in range(3):
        joined(noise(4, 150))[0].sum().backward()
    assert len(made) == 1
    with torch.no_grad():
        layer.weight.mul_(2)
    doubled = joined(noise(4, 150))[0]
    assert len(made) == 2
    with torch.no_grad():
        layer.weight.div_(2)
    torch.testing.assert_close(doubled - layer.bias, 2 * (joined(noise(4, 150))[0] - layer.bias), rtol=1e-4, atol=1e-4)


def test_of_its_input_a_layer_keeps_a_byte_a_number():
    (layer,) = layers(256, inner=512, bias=False)
    hidden, held = noise(1024, 512).requires_grad_(), {}
    joined = Eighths(layer)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t):
        joined(hidden)
    weight = 256 * 512
    assert sum(tensor.nbytes for tensor in held.values()) < (1024 * 512 + weight) * 1.04  # a scale for 128 numbers is 1/32 of a byte


def test_who_does_not_learn_reads_the_weights_as_they_are():
    three, hidden = layers(130, 40), noise(9, 150)
    with torch.no_grad():
        for found, layer in zip(Eighths(*three)(hidden), three, strict=True):
            assert torch.equal(found, layer(hidden))


def test_no_other_path_multiplies_in_half_precision_what_learns(monkeypatch):
    """What asks for copies in half precision to multiply by itself gets none while something learns."""
    monkeypatch.setattr(Joined, "fits", lambda self, hidden: True)
    joined, hidden = Eighths(*layers(40)), noise(4, 150)
    assert not joined.fits(hidden)
    with torch.no_grad():
        assert joined.fits(hidden)


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe", "deepseek_v3"])
def test_embedding_head_norms_routers_experts_and_the_join_of_mtp_stay_in_higher_precision(tiny, random_tokens, monkeypatch, family):
    """What is rounded to FP8 are the projections of attention, dense feed-forwards and shared experts, and nothing else."""
    from afterbase.model import fp8

    model = tiny(family, num_nextn_predict_layers=1 if family == "deepseek_v3" else 0)
    names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
    rounded, real = set(), scaled_weights
    monkeypatch.setattr(fp8, "scaled_weights", lambda weights: rounded.update(names[w.data_ptr()] for w in weights) or real(weights))
    learn_in_fp8(model)
    tokens, segments = torch.tensor(random_tokens(9)), Segments.of([9])
    model.look_ahead(model(tokens, segments), tokens, segments)
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    kept = {name for name in matrices if any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate.weight", "eh_proj"))}
    assert rounded == matrices - kept and len(rounded) >= 8


def test_a_changed_neighbour_changes_no_state(tiny, random_tokens):
    model = tiny("qwen3")
    learn_in_fp8(model)
    first, second, other = random_tokens(7, 1), random_tokens(9, 2), random_tokens(7, 3)
    one, two = (model(torch.tensor(start + second), Segments.of([7, 9]))[7:] for start in (first, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_a_model_in_fp8_is_near_its_other_self_and_not_it(tiny, random_tokens, family):
    model = tiny(family)
    rounded = copy.deepcopy(model)
    learn_in_fp8(rounded)
    assert not any(type(value) is Joined for module in rounded.modules() for value in vars(module).values())
    tokens, segments = torch.tensor(random_tokens(30)), Segments.of([30])
    plain, near = model(tokens, segments), rounded(tokens, segments)
    away = ((plain - near).norm(dim=1) / plain.norm(dim=1)).median()  # a token whose router chose otherwise is far off
    assert 1e-3 < away < 0.25


def test_views_of_whole_tiles_are_views():
    for kept in (Scaled.tiles(256, 384, "cpu"), Scaled.blocks(256, 384, "cpu")):
        part = kept.rows(128, 256).columns(128, 384)
        part.numbers.copy_(torch.ones(128, 256)), part.scales.fill_(2.0)
        kept.rows(0, 128).fill(torch.zeros(128, 384), torch.ones_like(kept.rows(0, 128).scales))
        kept.columns(0, 128).fill(torch.zeros(256, 128), torch.ones_like(kept.columns(0, 128).scales))
        assert kept.wide().sum() == 2 * 128 * 256 and (kept.wide()[128:, 128:] == 2).all()
