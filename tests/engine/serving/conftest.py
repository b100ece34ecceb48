"""A server with a tiny random model behind it, on a port of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.engine.serving.app import Api, Served
from afterbase.engine.serving.desk import Desk
from afterbase.engine.serving.wire import Limits, Server
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.text.chat import HOUSE_TEMPLATE
from afterbase.text.tokenizer import SPECIAL, Tokenizer, train_bpe

TEXTS = ["What is 12 + 30? The answer is 42.", "小明有3个苹果, Ann has 5 more. How many apples does she have now? 🍎"]
SHAPE = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Running:
    """A server in a thread of its own, and what a test wants to look at."""

    def __init__(self, engine: LocalEngine, tokenizer: Tokenizer, limits: Limits, **served) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.desk, self.failures, self.steps = Desk(engine), [], 0
        numbers = iter(range(10**9))
        about = {"name": "tiny", "template": "chat", "key": "secret", "hide_thought": False, "draws": lambda: next(numbers), **served}
        api = Api(self.desk, Served(tokenizer=tokenizer, **about))
        self.server = Server(api, api.admit, self.failures.append, limits)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        decode = engine.runner.decode
        engine.runner.decode = lambda *arguments: self._count(decode(*arguments))

    def _count(self, logits):
        self.steps += 1
        return logits

    def call(self, coroutine):
        """Run something where the server runs."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def start(self) -> None:
        self.desk.start()
        self.thread.start()
        self.port = self.call(self.server.start("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self, seconds: float = 0.0) -> None:
        self.call(self.server.stop(seconds))
        self.call(self.desk.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="session")
def letters() -> Tokenizer:
    return train_bpe(iter(TEXTS * 3), 420, list(SPECIAL), HOUSE_TEMPLATE)


@pytest.fixture(scope="session")
def serving(letters) -> Callable:
    """`with serving(rows=2, queue=1) as running: ...`; `engine` makes another kind of engine."""

    @contextmanager
    def run(
        rows=8, queue=64, context=256, limits=None, engine=LocalEngine, device="cpu", precision="float32", **served
    ) -> Iterator[Running]:
        config = ModelConfig.from_hf({**SHAPE, "vocab_size": letters.vocab_size + 3, "max_position_embeddings": 4096})
        model = Transformer(config).initialize(0).to(device)
        made = engine(model, EngineConfig(rows=rows, context=context, precision=precision, queue=queue), letters.decode)
        running = Running(made, letters, limits or Limits(), **served)
        running.start()
        try:
            yield running
        finally:
            running.stop()
            assert running.failures == [], "the server failed at something"

    return run


@pytest.fixture(scope="module")
def running(serving) -> Iterator[Running]:
    """One server for tests that leave it as it was."""
    with serving() as server:
        yield server
