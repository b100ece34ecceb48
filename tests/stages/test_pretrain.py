import json

import pytest

from afterbase.config import build
from afterbase.curate.crawl import Crawl
from afterbase.errors import ConfigError, DataError
from afterbase.stages import pretrain
from afterbase.stages.pretrain import STAGE, PretrainConfig, Reader
from afterbase.stages.run import run_stage
from afterbase.stages.session import load_pair
from afterbase.text.tokenizer import EOS, FILL_BEGIN, FILL_END, FILL_HOLE
from afterbase.track import read_metrics

CHAIN = {"generator": "chain_sum", "settings": {"max_terms": 3, "max_digits": 1}}


@pytest.fixture
def table(small):
    def make(**changes):
        architecture = {**small, "vocab_size": 320, "max_position_embeddings": 512}
        crawl = {"sources": [CHAIN, {"generator": "facts"}], "transcripts": 0.1}
        return {"architecture": architecture, "crawl": crawl, "tokenizer_documents": 60, "steps": 3, "tokens_per_step": 300, **changes}

    return make


@pytest.fixture
def reader(table, tokenizer):
    def make(first=0, context=512, **changes) -> Reader:
        config = build(PretrainConfig, table(**changes), "recipe")
        return Reader(config, Crawl(config.crawl, 0), tokenizer, context, first)

    return make


def test_the_reader_deals_whole_documents_in_order_from_any_place(reader, tokenizer):
    dealer = reader(fill_in_middle=0.0)
    first, second = dealer.take(200), dealer.take(200)
    assert sum(len(sample.tokens) for sample in first[:-1]) < 200 <= sum(len(sample.tokens) for sample in first)
    texts = [tokenizer.decode(sample.tokens[1:], skip_special=False) for sample in first + second]
    assert texts == [dealer.crawl.document(index) + EOS for index in range(len(texts))]
    assert reader(len(first), fill_in_middle=0.0).take(200) == second


def test_everything_is_learned_but_the_token_that_begins_a_document(reader, tokenizer):
    (sample, *_) = reader().take(1)
    assert sample.tokens[0] == tokenizer.bos_id and sample.learn == (False,) + (True,) * (len(sample.tokens) - 1)


def test_the_asked_for_share_of_documents_has_its_middle_last(reader, tokenizer):
    def rearranged(share: float) -> float:
        texts = [tokenizer.decode(sample.tokens, skip_special=False) for sample in reader(fill_in_middle=share).take(20_000)]
        marked = [text for text in texts if FILL_BEGIN in text]
        assert all(text.index(FILL_BEGIN) < text.index(FILL_HOLE) < text.index(FILL_END) for text in marked)
        return len(marked) / len(texts)

    assert rearranged(0.0) == 0.0 and rearranged(1.0) == 1.0 and rearranged(0.25) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "32"}, r"recipe: 'architecture': hidden_size='32' must be a whole number"),
        ({"hiden_size": 32}, r"recipe: 'architecture': unknown key 'hiden_size'; did you mean 'hidden_size'\?"),
        ({"model_type": "gpt"}, r"recipe: 'architecture': model_type 'gpt' is not supported"),
    ],
)
def test_an_architecture_that_cannot_be_is_told_with_the_recipe(table, small, change, said):
    """Before a run directory is begun, like every other key."""
    with pytest.raises(ConfigError, match=said):
        build(PretrainConfig, table(architecture={**small, **change}), "recipe")


def test_a_model_too_large_for_the_memory_is_told_in_words(table, tmp_path, monkeypatch):
    def full(config):
        raise RuntimeError("can't allocate memory: you tried to allocate 4000000000000 bytes")

    monkeypatch.setattr(pretrain, "Transformer", full)
    with pytest.raises(
        ConfigError, match=r"a model of [\d,]+ parameters does not fit into memory \(can't .*\); make the architecture smaller"
    ):
        run_stage("pretrain", STAGE, build(PretrainConfig, table(), "recipe"), tmp_path / "run")


def test_a_document_longer_than_the_context_is_an_error_in_words(reader):
    with pytest.raises(DataError, match=r"document \d+ has \d+ tokens, the model's context 16; raise max_position_embeddings"):
        reader(context=16).take(1000)


def test_a_base_model_and_its_tokenizer_come_out(table, recipe, command, tmp_path, documented):
    page = recipe(**table(steps=20, trainer={"mtp": 0.1, "optim": {"schedule": {"peak": 0.01}}}))
    assert command("pretrain", page, "--out", tmp_path / "run")[0] == 0
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(lines) == 20 and documented(lines[0])
    assert lines[0]["train/loss/mean"] > 5 and lines[-1]["train/loss/mean"] < 4
    assert lines[-1]["train/mtp_loss/mean"] < lines[0]["train/mtp_loss/mean"]
    model, tokenizer = load_pair(tmp_path / "run" / "checkpoints" / "final")
    assert tokenizer.vocab_size <= model.config.vocab_size == 320 and len(model.mtp) == 1
    assert json.loads((tmp_path / "run" / "done.json").read_text())["loss"] == lines[-1]["train/loss/mean"]


def test_the_dry_run_knows_the_parameters_without_making_them(table, small):
    from afterbase.model.config import ModelConfig
    from afterbase.model.transformer import Transformer

    config = build(PretrainConfig, table(), "recipe")
    model = Transformer(ModelConfig.from_hf(config.architecture))
    assert STAGE.size(config)["parameters"] == sum(parameter.numel() for parameter in model.parameters())
