"""A checkpoint small enough for any stage, and the front door to them."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from afterbase.cli import app
from afterbase.model.checkpoint import save_model
from afterbase.model.config import ModelConfig
from afterbase.model.transformer import Transformer
from afterbase.text.chat import HOUSE_TEMPLATE, R1_ZERO
from afterbase.text.tokenizer import SPECIAL, Tokenizer, train_bpe

TEXTS = [R1_ZERO, "What is 12 + 30? The answer is 42.", "Ann has 3 apples and buys 5 more. How many apples does she have now?"]
SMALL = {
    "model_type": "deepseek_v3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
}  # fmt: skip
DENSE = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """The architecture of `base`: MLA, experts and a multi-token prediction module, all tiny."""
    return SMALL


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(iter(TEXTS * 3), 400, list(SPECIAL), HOUSE_TEMPLATE)


@pytest.fixture(scope="session")
def make_checkpoint(tokenizer: Tokenizer, tmp_path_factory) -> Callable[..., Path]:
    """A directory in Hugging Face format with fresh weights; keys change the architecture."""

    def make(shape: Mapping[str, Any] = SMALL, **changes: Any) -> Path:
        directory = tmp_path_factory.mktemp("checkpoint")
        table = {**shape, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 256, **changes}
        save_model(Transformer(ModelConfig.from_hf(table)).initialize(0), directory)
        tokenizer.save(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def base(make_checkpoint) -> Path:
    """MLA, experts and a multi-token prediction module, all tiny."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def dense(make_checkpoint) -> Path:
    """Nothing but attention and feed-forward layers."""
    return make_checkpoint(DENSE)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """A recipe file out of keywords."""

    def write(name: str = "recipe", **table: Any) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(tomli_w.dumps(json.loads(json.dumps(table, default=str))))
        return path

    return write


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """A JSON Lines file out of objects, or of lines as they are."""

    def write(*lines: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def command() -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; gives (exit code, stdout, stderr), and lets a bug through as it is."""

    def run(*arguments: Any, typed: str | None = None) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed, prog_name="afterbase")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture(scope="session")
def documented() -> Callable[[Mapping[str, Any]], bool]:
    """Whether docs/metrics.md explains every number of a line of metrics."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = [re.sub(r"<\w+>", r"[^/]+", name) for name in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)]
    known = re.compile("|".join(names))
    return lambda line: [name for name in line if name != "step" and not known.fullmatch(name)] == []
