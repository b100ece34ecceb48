"""What the engine's tests share."""

import asyncio

import pytest
import torch


@pytest.fixture(scope="session")
def outcomes():
    """Call it with an engine and requests, (prompt, sampling) or (prompt, sampling, n), that are made at once: completions, or errors."""

    def ask(engine, *requests):
        async def all_of_them():
            return await asyncio.gather(*(engine.generate(*request) for request in requests), return_exceptions=True)

        return asyncio.run(all_of_them())

    return ask


@pytest.fixture(scope="session")
def same():
    """Call it: whether two lots of completions are one and the same but for rounding."""

    def compare(one, other) -> bool:
        for first, second in zip(one, other, strict=True):
            assert (first.tokens, first.finish) == (second.tokens, second.finish)
            assert first.logprobs == pytest.approx(second.logprobs, abs=1e-5)
            assert first.sampled_logprobs == pytest.approx(second.sampled_logprobs, abs=1e-5)
        return True

    return compare


@pytest.fixture
def on_a_cpu(monkeypatch):
    """What a CPU lacks: products of halves summed in float32; and Triton 3.6's interpreter: bfloat16, and loops of unknown length."""
    if torch.cuda.is_available():
        return
    from triton import language as tl
    from triton.runtime import interpreter

    from afterbase.model.cuda import vocabulary

    builder, patch = interpreter.InterpreterBuilder, interpreter._patch_lang_tensor
    dot, cast = builder.create_dot, builder.cast_impl

    def rounding_cast(self, source, kind):
        """To the nearest, as a GPU does; the interpreter cuts off."""
        data = torch.from_numpy(source.data)
        if (source.dtype.scalar, kind.scalar) == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(data.to(torch.bfloat16).view(torch.uint16).numpy(), tl.bfloat16)
        if (source.dtype.scalar, kind.scalar) == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(data.view(torch.bfloat16).float().numpy(), tl.float32)
        return cast(self, source, kind)

    def wide_dot(self, a, b, *rest):
        return dot(self, *(rounding_cast(self, x, tl.float32) if x.dtype == tl.bfloat16 else x for x in (a, b)), *rest)

    function, known = interpreter.InterpretedFunction.__call__, set()

    def called(self, *given, **named):
        """The interpreter changes the language at each call of a function, which takes longer than most; once for each file will do."""
        if self.fn.__module__ not in known:
            known.add(self.fn.__module__)
            return function(self, *given, **named)
        return self.rewrite()(*given, **named)

    def with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", called)
    monkeypatch.setattr(builder, "cast_impl", rounding_cast)
    monkeypatch.setattr(builder, "create_dot", wide_dot)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)
    monkeypatch.setattr(vocabulary, "product", lambda a, b: a.float() @ b.float())


@pytest.fixture
def unsplit(monkeypatch):
    """One program for each row and key head: interpreted, each takes milliseconds."""
    from afterbase.engine.cuda import attention

    monkeypatch.setattr(attention, "PROGRAMS", 1)
