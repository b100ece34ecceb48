"""Serving a checkpoint to OpenAI clients, until it is asked to stop."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from afterbase.engine.local import EngineConfig, LocalEngine
from afterbase.errors import ConfigError, EngineError
from afterbase.lineage import reading
from afterbase.stages.session import load_pair
from afterbase.stages.stopping import Stopping
from afterbase.text.chat import check_template
from afterbase.text.tokenizer import Tokenizer

MISSING = "serving needs the package h11; pip install 'afterbase[serve]'"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
GRACE = 30.0
"""Seconds for answers that are on their way when the server is asked to stop."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a checkpoint is served."""

    model: Path
    """Its directory."""
    host: str = "127.0.0.1"
    """Where to listen; the loopback reaches this machine only."""
    port: int = 8000
    """0 lets the system choose."""
    key: str | None = None
    """What clients must show."""
    name: str | None = None
    """The model's name in requests; None takes the directory's."""
    template: str = "chat"
    """How conversations are put to the model."""
    hide_thought: bool = False
    """Whether nobody gets to see thoughts."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(rows=64, queue=256))
    """How much runs at once; what its queue does not take is refused with 429."""


def run_serve(settings: ServeSettings, listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or Ctrl-C; `listening` is told the address once it answers."""
    check(settings)
    try:
        import h11  # noqa: F401  an extra: training needs no server
    except ImportError:
        raise ConfigError(MISSING) from None
    with Stopping():  # until the server itself listens for signals
        model, tokenizer = load_pair(settings.model)
        engine = LocalEngine(model, settings.engine, tokenizer.decode)
        asyncio.run(_serve(settings, engine, tokenizer, listening))


def read_key(path: Path) -> str:
    """The API key in a file; in a file because everybody on a machine can read a command line."""
    with reading(path):
        return path.read_text(encoding="utf-8").strip()


def check(settings: ServeSettings) -> None:
    """What can be wrong before a checkpoint is read."""
    if settings.key is not None and not settings.key.strip():
        raise ConfigError("the API key is empty; write one into the file, or leave it out to serve this machine only")
    if settings.key is None and settings.host not in LOOPBACK:
        raise ConfigError(f"--host {settings.host} would serve everyone who can reach it; give an API key, or keep to 127.0.0.1")
    check_template(settings.template)


async def _serve(settings: ServeSettings, engine: LocalEngine, tokenizer: Tokenizer, listening: Callable[[str], None]) -> None:
    from afterbase.engine.serving.app import Api, Served
    from afterbase.engine.serving.desk import Desk
    from afterbase.engine.serving.wire import Server

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    name = settings.name or settings.model.resolve().name
    desk = Desk(engine)
    api = Api(desk, Served(name, tokenizer, settings.template, settings.key, settings.hide_thought, lambda: secrets.randbits(63)))
    server = Server(api, api.admit, lambda error: traceback.print_exception(error, file=sys.stderr))
    desk.start()
    try:
        try:
            await desk.warm()
        except EngineError as error:
            raise ConfigError(f"{error}; on the command line --rows and --context") from None
        try:
            port = await server.start(settings.host, settings.port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); give another --port"
            ) from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        listening(f"http://{host}:{port}/v1")
        await stop.wait()
        await server.stop(GRACE)
        if drafted := await desk.speculation():
            print(drafted, file=sys.stderr)
    finally:
        await desk.close()
