import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterbase.records import Message
from afterbase.stages.session import load_pair
from afterbase.stages.sft import plan_steps
from afterbase.text.chat import sft_sample
from afterbase.track import read_metrics


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 3), st.integers(1, 120), st.integers(0, 5))
def test_an_epoch_holds_every_sample_once_in_updates_that_are_full_but_for_its_last(lengths, epochs, tokens_per_step, seed):
    plan = plan_steps(lengths, epochs, tokens_per_step, seed)
    for _ in range(epochs):
        epoch = []
        while len(epoch) < len(lengths):
            step = plan.pop(0)
            epoch += step
            tokens = [lengths[index] for index in step]
            assert sum(tokens[:-1]) < tokens_per_step and (sum(tokens) >= tokens_per_step or len(epoch) == len(lengths))
        assert sorted(epoch) == list(range(len(lengths)))
    assert plan == []


def test_every_epoch_has_an_order_of_its_own_and_the_seed_decides():
    one, other = plan_steps([1] * 20, 2, 20, 0)
    assert one != other and plan_steps([1] * 20, 2, 20, 0) == [one, other] != plan_steps([1] * 20, 2, 20, 1)


@pytest.fixture
def trained(command, dense, recipe, tmp_path):
    """Fine-tunes the tiny model; gives the lines of its metrics."""

    def run(*files, peak=0.01, **changes):
        optim = {"schedule": {"peak": peak}, "weight_decay": 0.0}
        page = recipe(model=dense, data=list(files), tokens_per_step=40, trainer={"optim": optim}, **changes)
        code, _, err = command("sft", page, "--out", tmp_path / "run")
        assert code == 0, err
        return read_metrics(tmp_path / "run" / "metrics.jsonl")

    return run


SUMS = [{"question": f"{n} + {n}?", "response": f"<think>Twice {n}.</think>{2 * n}"} for n in range(6)]


def test_two_epochs_go_along_a_cosine_from_the_peak_to_a_fifth_of_it(trained, rows):
    rates = [line["train/learning_rate/value"] for line in trained({"path": rows(*SUMS)}, peak=5e-6)]
    assert rates[0] == 5e-6 and rates[-1] == pytest.approx(1e-6) and rates == sorted(rates, reverse=True) and len(rates) >= 4


def test_the_loss_goes_down_on_what_is_learned(trained, rows, documented):
    lines = trained({"path": rows(*SUMS)}, epochs=15)
    assert lines[0]["train/loss/mean"] > 5 and lines[-1]["train/loss/mean"] < 1 and documented(lines[0])


def test_rows_with_and_without_a_system_prompt_are_both_learned_whole(trained, rows, dense, tmp_path):
    """The two kinds of samples of [V3 5.1]."""
    plain, guided = (
        {"question": "Hi", "response": "Hello."},
        {"system": "Reflect and verify.", "question": "Hi", "response": "<think>So.</think>Hello."},
    )
    tokenizer = load_pair(dense)[1]
    samples = [
        sft_sample(tokenizer, [Message("user", "Hi"), Message("assistant", "Hello.")], "all"),
        sft_sample(
            tokenizer,
            [Message("system", "Reflect and verify."), Message("user", "Hi"), Message("assistant", "<think>So.</think>Hello.")],
            "all",
        ),
    ]
    lines = trained({"path": rows(plain, guided)}, epochs=1)
    assert sum(line["train/tokens/count"] for line in lines) == sum(len(sample.tokens) for sample in samples)
    assert json.loads((tmp_path / "run" / "done.json").read_text())["samples"] == 2


def test_files_are_weighed_limited_and_mixed(trained, rows, tmp_path):
    few, many = rows(*SUMS[:2], name="few.jsonl"), rows(*SUMS, name="many.jsonl")
    lines = trained({"path": few, "epochs_factor": 3}, {"path": many, "limit": 4}, epochs=1)
    assert sum(line["train/samples/count"] for line in lines) == 2 * 3 + 4


def test_the_model_that_was_learned_answers(trained, rows, command, tmp_path):
    trained({"path": rows(*SUMS[2:4])}, epochs=40)
    code, out, _ = command("generate", tmp_path / "run" / "checkpoints" / "final", "3 + 3?", "--temperature", "0", "--show-thought")
    assert (code, out) == (0, "<think>Twice 3.</think>6\n")
