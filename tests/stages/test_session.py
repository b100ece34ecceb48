"""A model in training: when it is saved, when it stops, and what it makes of numbers that are none."""

import random
import signal

import numpy as np
import pytest
import torch

from afterbase.config import Config
from afterbase.errors import LearningError, Stopped
from afterbase.records import Sample
from afterbase.stages.generators import generators, restore_generators, seed_generators
from afterbase.stages.run import Run
from afterbase.stages.session import Session
from afterbase.train.packing import pack
from afterbase.train.resume import SavingConfig
from afterbase.train.trainer import TrainerConfig

SAMPLE = Sample((5, 6, 7, 8), (False, True, True, True))


class Loss:
    """A loss whose value is chosen, in place of Likelihood."""

    entropy = "unused"

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, logprobs, batch, entropy=None):
        loss = -logprobs.mean() * self.factor
        return loss, {"train/loss/mean": float(loss.detach()), "train/other/mean": 2.0}


@pytest.fixture
def opened(dense, tmp_path):
    """Opens the same run of ten steps, as one process after another does."""
    runs = []

    def open_run(every=100, updates=1):
        if runs:
            runs.pop().close()
        run = Run.open(tmp_path / "run", "toy", Config(), {})
        runs.append(run)
        return Session.start(run, dense, TrainerConfig(), SavingConfig(every=every), 10, updates)

    yield open_run
    runs.pop().close()


def learned(session, factor=1.0):
    return session.learn(pack([SAMPLE], 100, session.trainer.device), Loss(factor))


def saved(session):
    return sorted(path.name for path in session.checkpoints.directory.glob("*"))


def test_asked_to_stop_it_saves_whatever_every_says_and_goes_on_from_there(opened):
    session = opened()
    for step in range(3):
        learned(session)
        session.run.stopping.asked = step == 2
        if step < 2:
            session.save_if_due({"place": step})
    with pytest.raises(Stopped, match="the state after step 3 is saved"):
        session.save_if_due({"place": 2})
    assert saved(session) == ["000003"]
    again = opened()
    assert (again.step, again.cursor) == (3, {"place": 2})
    theirs = again.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in session.model.state_dict().items())


def test_in_the_middle_of_a_step_it_drops_the_step_or_lets_it_end(opened):
    """Two updates a step: before the first the state is that of the step before; between them it has to wait."""
    session = opened(updates=2)
    learned(session), learned(session)
    session.save_if_due("one")
    torch.rand(3)  # the dropped step had drawn
    session.run.stopping.asked = True
    session.trainer.done += 1
    session.stop_if_asked()
    session.trainer.done -= 1
    stood = session.boundary.generators["torch"]
    with pytest.raises(Stopped, match="the state after step 1 is saved"):
        session.stop_if_asked()
    again = opened(updates=2)
    assert (again.step, again.cursor) == (1, "one") and torch.equal(torch.get_rng_state(), stood)


def test_asked_before_the_first_step_there_is_nothing_to_save(opened):
    session = opened()
    session.run.stopping.asked = True
    with pytest.raises(Stopped, match="no step was made yet"):
        session.stop_if_asked()
    assert not session.checkpoints.directory.exists()


def test_asked_twice_at_the_same_place_it_saves_once(opened):
    session = opened(every=1)
    learned(session)
    session.save_if_due(None)
    session.run.stopping.asked = True
    with pytest.raises(Stopped):
        session.stop_if_asked()
    assert saved(session) == ["000001"]


def test_sigterm_is_heard_once_a_model_is_in_training(opened):
    session = opened()
    with session.run.stopping:
        signal.raise_signal(signal.SIGTERM)
    assert session.run.stopping.asked


def test_a_skipped_update_keeps_its_batch_and_its_numbers_that_are_numbers(opened):
    session = opened()
    learned(session)
    metrics = learned(session, torch.nan)
    assert metrics == {"train/other/mean": 2.0, "train/learning_rate/value": metrics["train/learning_rate/value"]} | {
        "train/skipped_updates/count": 1
    }
    kept = torch.load(session.run.directory / "bad_batches" / "000001.pt", weights_only=True)
    assert kept["batches"][0]["tokens"].tolist() == [5, 6, 7, 8] and kept["gradient_norm"] != kept["gradient_norm"]


def test_three_in_a_row_stop_the_run_with_a_saved_state(opened):
    session = opened()
    for factor in (torch.nan, torch.inf, 1.0, torch.nan, torch.nan):
        learned(session, factor)
        session.save_if_due(None)
    learned(session, torch.inf)
    with pytest.raises(LearningError, match=r"3 updates in a row .* saved in .*000006, their batches are in .*bad_batches"):
        session.save_if_due("here")
    again = opened()
    assert (again.step, again.cursor, again.trainer.skipped) == (6, "here", 0)
    assert all(bool(tensor.isfinite().all()) for tensor in again.model.state_dict().values())


def test_a_kill_in_the_middle_of_three_counts_them_all(opened):
    session = opened(every=1)
    for _ in range(2):
        learned(session, torch.nan)
        session.save_if_due(None)
    again = opened(every=1)
    learned(again, torch.nan)
    with pytest.raises(LearningError, match="3 updates in a row"):
        again.save_if_due(None)


def test_a_damaged_checkpoint_is_stepped_over(opened, capsys):
    session = opened(every=1)
    for step in range(2):
        learned(session)
        session.save_if_due(step)
    weights = session.checkpoints.path(2) / "model.safetensors"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    again = opened(every=1)
    assert (again.step, again.cursor) == (1, 0) and "going on from" in capsys.readouterr().err


def test_the_best_model_is_told_at_the_end(opened):
    session = opened()
    for accuracy in (0.25, 0.75, 0.5):
        session.keep_best({"eval/accuracy/mean": accuracy})
        learned(session)
        session.save_if_due(None)
    session.finish({"loss": 1.0})
    told = (session.run.directory / "done.json").read_text()
    best = '"best": {\n  "checkpoint": "checkpoints/best",\n  "metric": "eval/accuracy/mean",\n  "step": 1,\n  "value": 0.75\n }'
    assert best in told and saved(session) == ["best", "final"]


def test_every_generator_goes_on_where_it_stood(tmp_path):
    def drawn():
        return random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))

    seed_generators(3)
    first = drawn()  # leaves half a pair of normal numbers in Python's generator and in numpy's
    torch.save(generators(), tmp_path / "state.pt")
    second = drawn()
    seed_generators(3)
    assert drawn() == first and drawn() == second and drawn() != second
    restore_generators(torch.load(tmp_path / "state.pt", weights_only=True))
    assert drawn() == second != first
