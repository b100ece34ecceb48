"""The FP8 kernels do what torch does; without a GPU in Triton's interpreter, which runs the same source."""

import pytest
import torch

pytest.importorskip("triton")

from afterbase.model import fp8
from afterbase.model.cuda import fp8 as kernels
from afterbase.model.fp8 import Eighths, Scaled, scaled_both_ways, scaled_weights

NATIVE = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
DEVICE = "cuda" if NATIVE else "cpu"


@pytest.fixture(autouse=True)
def rounds_as_a_gpu_does(monkeypatch):
    """To the nearest FP8 number, and to the largest instead of beyond, where the interpreter cuts off; and loops of unknown length."""
    if NATIVE:
        return
    from triton import language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def to_fp8(self, source, kind, rounding_mode):
        assert (source.dtype.scalar, kind.scalar) == (tl.float32, tl.float8e4nv)
        numbers = torch.from_numpy(source.data).clamp(-448, 448).to(torch.float8_e4m3fn)
        return interpreter.TensorHandle(numbers.view(torch.uint8).numpy(), tl.float8e4nv)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fp_to_fp", to_fp8)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)


@pytest.fixture
def by_kernels(monkeypatch):
    """Call it to have FP8 done by the kernels from here on; before that torch does it."""
    monkeypatch.setattr(fp8, "kernels_for", lambda tensor: None)
    return lambda: monkeypatch.setattr(fp8, "kernels_for", lambda tensor: kernels)


def rand(*shape, seed=0, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(shape[0], 1, generator=generator).exp() * torch.randn(1, shape[1], generator=generator).exp()
    return (torch.randn(shape, generator=generator) * sizes).to(DEVICE, dtype)


def same(one: Scaled, other: Scaled) -> bool:
    return torch.equal(one.numbers.view(torch.uint8), other.numbers.view(torch.uint8)) and torch.equal(one.scales, other.scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16] if NATIVE else [torch.float32])
@pytest.mark.parametrize("widths", [(256,), (130, 40)])
def test_numbers_and_scales_are_the_same_bit_by_bit(by_kernels, widths, dtype):
    """Rows and widths of no whole tiles, columns of a wider matrix, and a tile of zeros."""
    wide = rand(150, sum(widths) + 30, dtype=dtype)
    wide[:128, :20] = 0
    wide[3] *= 1e-30
    parts, weights = wide[:, : sum(widths)].split(widths, dim=1), [rand(width, 140, seed=width, dtype=dtype) for width in widths]
    expected = *scaled_both_ways(parts), *scaled_weights(weights)
    by_kernels()
    for found, wanted in zip((*scaled_both_ways(parts), *scaled_weights(weights)), expected, strict=True):
        assert same(found, wanted) and found.scales.stride() == wanted.scales.stride()


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16] if NATIVE else [torch.float32])
def test_a_product_is_that_of_what_the_matrices_stand_for(by_kernels, blocks, dtype):
    """Of 3 by 2 blocks, over 3 tiles: no two sizes alike."""
    a = scaled_both_ways([rand(384, 384)])[0]
    b = scaled_weights([rand(256, 384, seed=1)])[0] if blocks else scaled_both_ways([rand(256, 384, seed=1)])[0]
    exact, size = a.wide().double() @ b.wide().double().T, a.wide().abs().double() @ b.wide().abs().double().T
    found = kernels.by_kernel(a.numbers, a.scales, b.numbers, b.scales, dtype)
    assert found.dtype == dtype
    # A matrix unit adds up fourteen bits or so of 128 products, and bfloat16 has eight.
    bound = size * (2e-3 if NATIVE else 1e-6) + exact.abs() * (2**-8 if dtype == torch.bfloat16 else 0)
    assert ((found.double() - exact).abs() <= bound).all()


def test_what_is_not_finite_comes_out_so(by_kernels):
    by_kernels()
    hidden, weight = rand(4, 130, dtype=torch.float32), rand(6, 130, seed=1, dtype=torch.float32)
    hidden[1, 5], hidden[2, 129] = torch.nan, torch.inf
    out = fp8.product(scaled_both_ways([hidden])[0], scaled_weights([weight])[0], torch.float32)[:4, :6]
    assert out.isfinite().all(dim=1).tolist() == [True, False, False, True]


def test_a_layer_learns_as_torch_has_it(by_kernels):
    layers = [torch.nn.Linear(140, width, device=DEVICE) for width in (130, 40)]
    slopes = [rand(70, width, seed=width, dtype=torch.float32) for width in (130, 40)]
    found = []
    for change in (lambda: None, by_kernels):
        change()
        hidden = rand(70, 140, dtype=torch.float32).requires_grad_()
        outputs = Eighths(*layers)(hidden)
        leaves = [hidden, *(parameter for layer in layers for parameter in layer.parameters())]
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, slopes)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=float(one.detach().abs().max()) * (2e-3 if NATIVE else 1e-5))


@pytest.mark.skipif(not NATIVE, reason="cuBLAS multiplies FP8 on a GPU")
def test_the_library_agrees_with_the_kernel_or_is_not_asked(by_kernels):
    by_kernels()
    for shape in ((256, 128), (384, 640), (128, 1024)):
        a, b = rand(256, shape[1]), rand(shape[0], shape[1], seed=1)
        for left, right in ((scaled_both_ways([a])[0], each([b])[0]) for each in (scaled_weights, scaled_both_ways)):
            everything = left.numbers, left.scales, right.numbers, right.scales
            for dtype in (torch.bfloat16, torch.float32):
                ours, asked = kernels.by_kernel(*everything, dtype), kernels.product(*everything, dtype)
                size = float(ours.float().abs().max())
                torch.testing.assert_close(ours, asked, rtol=1e-2, atol=1e-3 * size)
