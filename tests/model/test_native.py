"""Compiled kernels give what torch gives, and nothing where they do not apply."""

import subprocess

import pytest
import torch

from afterbase.engine import draw as drawing
from afterbase.engine.draw import Knobs, draw, row_key
from afterbase.engine.runner import FusedRunner
from afterbase.model import mlp, native, norm, rope
from afterbase.model.cache import Cache
from afterbase.model.config import ModelConfig
from afterbase.model.native import kernels
from afterbase.model.transformer import Transformer
from afterbase.segments import Segments

compiled = pytest.mark.skipif(kernels() is None, reason="there is no C++ compiler here, so everything runs in torch")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def in_torch(monkeypatch):
    """Runs a function without the kernels."""

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            for module in (mlp, norm, rope, drawing):
                patch.setattr(module, "kernels_for", lambda tensor: None)
            return function(*arguments)

    return run


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found, wanted, dtype, roundings=1):
    """Equal but for the rounding of the dtype, once or several times in a row: bfloat16 has 8 bits."""
    tolerance = roundings * (2e-5 if dtype == torch.float32 else 2**-7)
    torch.testing.assert_close(
        found.detach().float(), wanted.detach().float(), atol=tolerance * max(1.0, float(wanted.detach().abs().max())), rtol=0
    )


def with_gradients(function, *inputs):
    """What a function returns and the gradients of its inputs under fixed weights of its outputs."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((out.float() * random(*out.shape, seed=number + 9)).sum() for number, out in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(loss, leaves)]


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 64, 130])
def test_a_norm_and_its_gradients(in_torch, dtype, width):
    x, delta, weight = random(9, width), random(9, width, dtype=dtype, seed=1), random(width, seed=2)

    def added(x, delta, weight):
        return norm.AddNormalize.apply(x, delta, weight, 1e-6, dtype)

    def alone(x, weight):
        return norm.Normalize.apply(x, weight, 1e-6, dtype)

    for function, inputs in ((added, (x, delta, weight)), (alone, (x, weight))):
        for found, wanted in zip(with_gradients(function, *inputs), in_torch(with_gradients, function, *inputs), strict=True):
            assert found.dtype == wanted.dtype
            close(found, wanted, dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_whose_sum_nobody_reads_and_one_whose_norm_nobody_reads(in_torch, dtype):
    x, delta, weight = random(5, 32), random(5, 32, dtype=dtype, seed=1), random(32, seed=2)

    def part(number):
        def read(x, delta, weight):
            return norm.AddNormalize.apply(x, delta, weight, 1e-6, dtype)[number] + 0 * weight.sum()

        return read

    for number in (0, 1):
        found = with_gradients(part(number), x, delta, weight)
        for each, wanted in zip(found, in_torch(with_gradients, part(number), x, delta, weight), strict=True):
            close(each, wanted, dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_and_its_gradients(in_torch, dtype):
    gate, up = random(11, 37, dtype=dtype) * 4, random(11, 37, dtype=dtype, seed=1)
    for found, wanted in zip(with_gradients(mlp.swiglu, gate, up), in_torch(with_gradients, mlp.swiglu, gate, up), strict=True):
        close(found, wanted, dtype)
    both = random(11, 74, dtype=dtype, seed=2)
    close(mlp.swiglu(*both.chunk(2, dim=-1)), in_torch(mlp.swiglu, *both.chunk(2, dim=-1)), dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotation_and_its_gradient(in_torch, dtype, interleaved):
    angles = random(6, 1, 5, seed=3)
    heads = random(6, 3, 14, dtype=dtype)[..., 2:12]  # a part of each head, as multi-head latent attention has it

    def turn(heads):
        return rope.Rotate.apply(heads, angles.cos(), angles.sin(), interleaved)

    for found, wanted in zip(with_gradients(turn, heads), in_torch(with_gradients, turn, heads), strict=True):
        close(found, wanted, dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_visible(dtype):
    """A bad number must reach the loss, where it is counted; a kernel that clamps or rounds it away would hide it."""
    bad = random(2, 32)
    bad[1, 3] = torch.nan
    _, _, normal = norm.add_normalize(bad, bad.to(dtype), torch.ones(32), 1e-6, dtype)
    turned = rope.turned(bad.to(dtype).view(2, 1, 32), torch.ones(2, 1, 16), torch.zeros(2, 1, 16), False, back=False)
    for out in (
        normal[1],
        mlp.swiglu(bad.to(dtype), bad.to(dtype))[1, 3:4],
        mlp.swiglu(-bad.abs().to(dtype), bad.to(dtype))[1, 3:4],
        turned[1, 0, 3:4],
    ):
        assert out.isnan().all()


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_are_the_same_tokens(in_torch, dtype, temperature):
    """Same random numbers, same tokens: 4,000 rows of one distribution meet its thresholds closely, 1 in 1,000 may fall by rounding."""
    n = 4000
    logits = (random(1, 200) * 3).to(dtype).expand(n, -1)
    settings = torch.full((n,), temperature), torch.ones(n), torch.zeros(n, dtype=torch.long)
    knobs = Knobs(*settings, truncating=False, greedy=False, plain=temperature == 1.0)
    keys, counts = torch.full((n,), row_key(3, 1)), torch.arange(n)
    found, wanted = draw(logits, knobs, keys, counts), in_torch(draw, logits, knobs, keys, counts)
    assert (found.tokens != wanted.tokens).float().mean() <= 1e-3
    same = found.tokens == wanted.tokens
    torch.testing.assert_close(found.logprobs[same], wanted.logprobs[same], atol=2e-5, rtol=0)


@compiled
def test_impossible_tokens_are_not_drawn_by_the_kernel():
    logits = torch.full((500, 40), -torch.inf)
    logits[:, 17] = 0.0
    knobs = Knobs(torch.ones(500), torch.ones(500), torch.zeros(500, dtype=torch.long), truncating=False, greedy=False, plain=True)
    found = draw(logits, knobs, torch.arange(500), torch.zeros(500, dtype=torch.long))
    assert found.tokens.eq(17).all() and found.logprobs.eq(0).all()


def test_without_a_compiler_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    assert native.kernels.__wrapped__() is None


@pytest.mark.parametrize(
    "failure", [subprocess.CalledProcessError(1, "c++"), subprocess.TimeoutExpired("c++", 1), PermissionError("read-only")]
)
def test_a_compiler_that_fails_leaves_torch_to_do_it(monkeypatch, failure):
    monkeypatch.setattr(native.shutil, "which", lambda name: "/usr/bin/c++")

    def fail(*arguments):
        raise failure

    monkeypatch.setattr(native, "_loaded", fail)
    assert native.kernels.__wrapped__() is None


@compiled
def test_an_interrupted_build_leaves_nothing_that_would_be_taken_for_a_library(monkeypatch, tmp_path):
    def killed(*command):
        raise KeyboardInterrupt

    monkeypatch.setattr(native, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        native._loaded(("c++",), tmp_path / "kernels", "key")
    assert list((tmp_path / "kernels").iterdir()) == []


SHAPES = {  # model_type, query heads, key heads, head width: pairs, an odd number of queries to a key, and a width of no kernel's own
    "pairs": ("qwen2", 4, 2, 32),
    "normalized": ("qwen3", 8, 2, 64),
    "odd": ("llama", 3, 1, 64),
    "unusual": ("qwen3", 6, 2, 24),
    "alone": ("llama", 2, 2, 128),
}


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_decoding_step(dtype, shape):
    """Rows of different lengths: the kernel's logits and what it remembers are those of the step in torch."""
    family, heads, key_heads, width = SHAPES[shape]
    table = {
        "model_type": family, "vocab_size": 50, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "head_dim": width,
        "num_attention_heads": heads, "num_key_value_heads": key_heads, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    model = Transformer(ModelConfig.from_hf(table | ({"hidden_size": heads * width} if family == "qwen2" else {}))).initialize(0)
    tokens, lengths = torch.tensor([3, 9, 41]), torch.tensor([0, 6, 19])
    steps = []
    for compact in (True, False):
        runner = FusedRunner(model, dtype)
        runner.compact = compact
        cache = Cache(model.config, 4, 32, dtype if compact else torch.float32, torch.device("cpu"))
        for number, memory in enumerate(memory for layer in cache.layers for memory in layer):
            memory.copy_(random(*memory.shape, dtype=torch.bfloat16, seed=number))  # numbers that both caches can hold
        logits = runner.decode(tokens, Segments.decoding(lengths), cache.decoding(Segments.decoding(lengths), 20))
        steps.append((logits.clone(), [memory for layer in cache.layers for memory in layer]))
    (found, remembered), (wanted, memories) = steps
    close(found, wanted, dtype, roundings=4)
    for memory, other in zip(remembered, memories, strict=True):
        close(memory, other, dtype, roundings=4)


def test_python_knows_how_wide_a_head_the_kernel_has_room_for():
    assert f"enum {{ MOST = {native.WIDEST_HEAD} }};" in native.SOURCES[0].read_text(encoding="utf-8")
