"""The same loss, gradient and weights as TRL's GRPOTrainer on the same tensors, for every variant that it has.

Its loss is called on a stand-in for the trainer; what it computes in the midst of a longer method is cut out of that method's source.
"""

import ast
import importlib
import inspect
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from afterbase.objective.advantage import AdvantageConfig, advantages
from afterbase.objective.correction import Correction, CorrectionConfig
from afterbase.objective.grpo import Grpo, GrpoConfig
from afterbase.records import Sample
from afterbase.train.packing import pack

LENGTHS, ADVANTAGES = (6, 4, 3, 1), (1.2, -0.7, 0.4, -2.0)
TOTAL = sum(LENGTHS)


@pytest.fixture(scope="module")
def trl():
    """Imported here, not above: it takes seconds, and may be missing."""
    pytest.importorskip("trl", reason="trl is not installed; `pip install afterbase[bench]` brings it")
    return importlib.import_module("trl.trainer.grpo_trainer")


def mask() -> torch.Tensor:
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Log-probabilities of four padded answers now, when they were learned from, under the reference and as drawn; and entropies."""
    random = torch.Generator().manual_seed(seed)
    drawn, change, drift, gap, entropy = (torch.randn(len(LENGTHS), max(LENGTHS), generator=random) for _ in range(5))
    old = -drawn.abs() - 0.5
    rows = {"old": old, "now": old + 0.4 * change, "reference": old + 0.5 * drift, "behaviour": old + 0.5 * gap, "entropy": entropy.abs()}
    return {name: values * mask() for name, values in rows.items()}


def batch_of(rows: dict[str, torch.Tensor]):
    samples = [
        Sample(
            (7,) * (n + 1),
            (False,) + (True,) * n,
            1.0,
            a,
            *(tuple(rows[name][i, :n].tolist()) for name in ("old", "reference", "behaviour")),
        )
        for i, (n, a) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))
    ]
    (batch,) = pack(samples, 1000)
    assert batch.samples == (0, 1, 2, 3)
    return batch


def stand_in(rows: dict[str, torch.Tensor], accumulated: int = 1, **changes) -> SimpleNamespace:
    """What `_compute_loss` reads of a trainer."""
    args = {"use_bias_correction_kl": False, "delta": None, "steps_per_generation": accumulated}
    settings = {
        "importance_sampling_level": "token",
        "loss_type": "grpo",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "max_completion_length": 9,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "_entropy_bonus_enabled": False,
        "entropy_coef": 0.0,
    }
    settings |= {name: value for name, value in changes.items() if name not in args}
    return SimpleNamespace(
        **settings,
        args=SimpleNamespace(**args | {name: value for name, value in changes.items() if name in args}),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, reduce=lambda value, reduction: value, gather=lambda value: value, sync_gradients=False
        ),
        current_gradient_accumulation_steps=accumulated,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (rows["now"], rows["entropy"], None),
    )


def their_loss(trl, rows, part=slice(None), correction=None, **settings) -> torch.Tensor:
    here = {name: values[part] for name, values in rows.items()}
    inputs = {
        "prompt_ids": torch.zeros(len(here["now"]), 1),
        "prompt_mask": torch.ones(len(here["now"]), 1),
        "completion_ids": torch.zeros_like(here["now"]),
        "completion_mask": mask()[part].float(),
        "advantages": torch.tensor(ADVANTAGES)[part],
        "old_per_token_logps": here["old"],
        "ref_per_token_logps": here["reference"],
        "num_items_in_batch": torch.tensor(TOTAL),
        "importance_sampling_ratio": correction,
    }
    return trl.GRPOTrainer._compute_loss(stand_in(here, **settings), None, inputs)


def their_statement(trl, method: str, test: str, **names) -> dict:
    """What the first `if` on `test` of a method leaves behind when it runs on the given names."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(trl.GRPOTrainer, method))))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == test]
    (statement,) = sorted(found, key=lambda node: node.lineno)[:1]
    space = {**vars(trl), **names}
    exec(compile(ast.Module([statement], []), "trl", "exec"), space)
    return space


def their_correction(trl, rows, mode: str, low: float | None, high: float | None) -> torch.Tensor:
    settings = {"mode": mode, "clip_min": low, "clip_max": high}
    trainer = SimpleNamespace(
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        **{f"vllm_importance_sampling_{name}": value for name, value in settings.items()},
    )
    test = "self.use_vllm and self.vllm_importance_sampling_correction"
    names = {
        "old_per_token_logps": rows["old"],
        "sampling_per_token_logps": rows["behaviour"],
        "completion_mask": mask(),
        "tool_mask": None,
    }
    return their_statement(trl, "_generate_and_score_completions", test, self=trainer, **names)["vllm_importance_sampling_ratio"]


VARIANTS = {
    "grpo": ({"average": "sequence"}, {}),
    "bnpo": ({}, {"loss_type": "bnpo"}),
    "dapo, clip higher": ({"clip_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": ({"average": "constant", "constant_length": 9}, {"loss_type": "dr_grpo"}),
    "cispo": ({"surrogate": "cispo", "clip": 1, "clip_high": 0.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    "gspo": ({"ratio": "gspo", "clip": 0.03}, {"importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.03}),
    "gspo, token mean": ({"ratio": "gspo", "average": "token"}, {"importance_sampling_level": "sequence", "loss_type": "dapo"}),
    "two-sided clip": ({"dual_clip": 1.3}, {"loss_type": "bnpo", "delta": 1.3}),
    "beta": ({"kl": 0.3, "average": "sequence"}, {"beta": 0.3}),
    "beta, gspo": ({"kl": 0.3, "ratio": "gspo"}, {"beta": 0.3, "importance_sampling_level": "sequence"}),
    "beta, unbiased": ({"kl": 0.3, "kl_estimator": "unbiased"}, {"beta": 0.3, "use_bias_correction_kl": True, "loss_type": "dapo"}),
    "entropy": ({"entropy": 0.1}, {"_entropy_bonus_enabled": True, "entropy_coef": 0.1, "loss_type": "dapo"}),
}
each_variant = pytest.mark.parametrize(("ours", "theirs"), VARIANTS.values(), ids=VARIANTS.keys())


def compare(rows, config: GrpoConfig, their: torch.Tensor) -> None:
    """Loss, and gradient by log-probabilities and by entropies, where both flow into it."""
    named = [name for name in ("now", "entropy") if rows[name].requires_grad]
    expected = torch.autograd.grad(their, [rows[name] for name in named])
    leaves = {name: rows[name].detach()[mask()].requires_grad_(name in named) for name in ("now", "entropy")}
    loss, _ = Grpo(config)(leaves["now"], batch_of({name: values.detach() for name, values in rows.items()}), leaves["entropy"])
    assert loss.item() == pytest.approx(their.item(), rel=1e-5, abs=1e-6)
    for found, wanted in zip(torch.autograd.grad(loss, [leaves[name] for name in named]), expected, strict=True):
        torch.testing.assert_close(found, wanted[mask()], atol=1e-6, rtol=1e-5)


def prepared(seed: int, config: GrpoConfig) -> dict[str, torch.Tensor]:
    rows = tensors(seed)
    rows["now"].requires_grad_()
    rows["entropy"].requires_grad_(config.entropy > 0)
    return rows


@pytest.mark.parametrize("seed", [0, 1, 2])
@each_variant
def test_loss_and_gradient_are_trls(trl, ours, theirs, seed):
    rows = prepared(seed, config := GrpoConfig(**ours))
    compare(rows, config, their_loss(trl, rows, **theirs))


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_a_step_of_two_batches_is_trls_accumulated_one(trl, loss_type):
    """Its token mean, too, is over the whole step: the divisor is given to each of the batches."""
    matching = {"grpo": "grpo", "dr_grpo": "dr_grpo", "dapo": "dapo, clip higher", "cispo": "cispo"}
    ours, theirs = VARIANTS[matching[loss_type]]
    rows = prepared(0, config := GrpoConfig(**ours))
    parts = [their_loss(trl, rows, part, accumulated=2, **theirs) for part in (slice(0, 2), slice(2, 4))]
    compare(rows, config, sum(parts))


MODES = [(level, mode, low) for level in ("token", "sequence") for mode in ("clip", "mask") for low in (None, 0.7)]


@pytest.mark.parametrize(("level", "mode", "low"), MODES)
def test_weights_and_weighed_loss_are_trls_correction(trl, level, mode, low):
    config = GrpoConfig(correction=CorrectionConfig(level=level, mode=mode, low=low or 0.0, high=1.4))
    rows = prepared(1, config)
    weights = their_correction(trl, rows, f"{level}_{'truncate' if mode == 'clip' else mode}", low, 1.4)
    found, _ = Correction(config.correction)(batch_of({name: values.detach() for name, values in rows.items()}))
    torch.testing.assert_close(found, weights.expand_as(mask())[mask()])
    compare(rows, config, their_loss(trl, rows, correction=weights, use_vllm=True, loss_type="dapo"))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls_but_for_its_sample_spread_and_its_epsilon(trl, scale):
    """It divides by the spread of n - 1 plus 1e-4, [V3 Eq. 28] by the population's; an unscorable answer is NaN there and masked here."""
    rewards = torch.tensor([[1.0, 0.0, 0.5, 1.0], [3.0, 1.0, 1.0, torch.nan], [0.2, 0.9, 0.4, 0.7]])
    valid = ~rewards.isnan()
    theirs = their_statement(
        trl,
        "_generate_and_score_completions",
        "self.multi_objective_aggregation == 'sum_then_normalize'",
        self=SimpleNamespace(multi_objective_aggregation="sum_then_normalize", scale_rewards=scale, reward_weights=torch.ones(1)),
        rewards_per_func=rewards.flatten()[:, None],
        unscorable_mask=~valid.flatten(),
        num_generations=4,
        device="cpu",
    )
    values = theirs["advantages"].reshape(3, 4)
    counted = {"group": [row[kept] for row, kept in zip(rewards, valid, strict=True)], "batch": [rewards[valid]] * 3}.get(scale)
    if counted:
        units = torch.stack([(row.std() + 1e-4) / row.std(correction=0) for row in counted])
        values = values * units[:, None]
    ours = advantages(rewards, valid, config=AdvantageConfig(scale=scale)).values
    torch.testing.assert_close(ours[valid], values[valid], atol=1e-5, rtol=1e-5)
