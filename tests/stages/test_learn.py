"""One optimizer step over several batches."""

from types import SimpleNamespace

from afterbase.stages.session import learn


def test_shares_of_the_step_add_up_and_of_a_maximum_the_largest_counts():
    trainer = SimpleNamespace(forward_backward=lambda batch, objective: batch, step=lambda: {"train/gradient/norm": 1.0})
    batches = [{"train/loss/mean": 0.25, "train/gap/max": -3.0}, {"train/loss/mean": 0.5, "train/gap/max": -2.0}, {"train/gap/max": -4.0}]
    assert learn(trainer, batches, None) == {"train/loss/mean": 0.75, "train/gap/max": -2.0, "train/gradient/norm": 1.0}
