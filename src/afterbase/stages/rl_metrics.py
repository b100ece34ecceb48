"""The numbers of one round of rollouts and of one evaluation between rounds, over all and by domain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from afterbase.engine.local import LocalEngine
from afterbase.evals.metrics import wilson
from afterbase.records import Rollout
from afterbase.rewards.base import check_errors
from afterbase.rollouts.turns import turn_metrics

NO_NAME = r"[/\s]"
"""What a domain may hold and a metric's name may not."""


def rollout_metrics(groups: Sequence[Sequence[Rollout]], max_errors: float) -> dict[str, float]:
    """Reward, accuracy, length and outcomes of a round; AfterbaseError when too many verdicts failed to mean anything."""
    rollouts = [rollout for group in groups for rollout in group]
    outcomes = Counter(rollout.score.outcome for rollout in rollouts)
    check_errors([rollout.score for rollout in rollouts], max_errors, "one round")
    metrics: dict[str, float] = {"train/rollouts/count": len(rollouts)}
    metrics |= _numbers("train", [rollout for rollout in rollouts if rollout.score.outcome != "error"])
    metrics |= {f"outcome/{outcome}/count": outcomes[outcome] for outcome in ("correct", "wrong", "no_answer", "timeout", "error")}
    for domain in sorted({rollout.prompt.domain for rollout in rollouts}):
        judged = [rollout for rollout in rollouts if rollout.prompt.domain == domain and rollout.score.outcome != "error"]
        metrics |= _numbers(f"domain_{re.sub(NO_NAME, '_', domain)}", judged)
    return metrics


def loop_metrics(groups: Sequence[Sequence[Rollout]], replaced: Sequence[Sequence[Rollout]], version: int) -> dict[str, float]:
    """What becomes of a round's groups: how many are too easy or too hard, were replaced, or come from older weights than `version`."""
    rollouts = [rollout for group in groups for rollout in group]
    drawn = [*groups, *replaced]
    right = [[rollout.score.outcome == "correct" for rollout in group if rollout.score.outcome != "error"] for group in drawn]
    metrics = {
        "train/solved_groups/fraction": sum(bool(each) and all(each) for each in right) / len(drawn),
        "train/unsolved_groups/fraction": sum(bool(each) and not any(each) for each in right) / len(drawn),
        "train/resampled_groups/count": float(len(replaced)),
        "train/staleness/mean": sum(version - rollout.completion.version for rollout in rollouts) / len(rollouts),
    }
    if any(rollout.completion.own for rollout in rollouts):  # there is an environment
        metrics |= turn_metrics(rollouts)
    return metrics


def drafting(engine: LocalEngine) -> dict[str, float]:
    """How many drafted tokens were kept so far, by place and domain; no metrics, for when drafting pays is a matter of seconds."""
    if not (counts := engine.speculation()):
        return {}
    parts = {"": counts.whole} | {f"_{domain}": part for domain, part in counts.by_tag.items() if domain}
    shares = [(name, place, share) for name, part in parts.items() for place, share in enumerate(part.fractions, 1)]
    return {f"engine/accepted_{place}{name}/fraction": share for name, place, share in shares}


def held_out_metrics(rollouts: Sequence[Rollout], max_errors: float) -> dict[str, float]:
    """The same numbers of one answer to each held-out question, with the accuracy's 95% interval; by domain where there are several."""
    check_errors([rollout.score for rollout in rollouts], max_errors, "one evaluation")
    judged = [rollout for rollout in rollouts if rollout.score.outcome != "error"]
    sure = wilson(sum(rollout.score.outcome == "correct" for rollout in judged), len(judged))
    metrics = {
        "eval/questions/count": float(len(judged)),
        "eval/errors/count": float(len(rollouts) - len(judged)),
        **_numbers("eval", judged),
    }
    if judged:
        metrics |= {"eval/accuracy/low": sure.low, "eval/accuracy/high": sure.high}
    domains = sorted({rollout.prompt.domain for rollout in judged})
    for domain in domains if len(domains) > 1 else []:
        metrics |= _numbers(f"eval_{re.sub(NO_NAME, '_', domain)}", [each for each in judged if each.prompt.domain == domain])
    return metrics


def _numbers(place: str, rollouts: Sequence[Rollout]) -> dict[str, float]:
    if not rollouts:
        return {}
    n = len(rollouts)
    parts = sorted({part for rollout in rollouts for part in rollout.score.parts})
    by_part = {part: [rollout.score.parts[part] for rollout in rollouts if part in rollout.score.parts] for part in parts}
    return {
        f"{place}/reward/mean": sum(rollout.score.value for rollout in rollouts) / n,
        f"{place}/accuracy/mean": sum(rollout.score.outcome == "correct" for rollout in rollouts) / n,
        f"{place}/response_length/mean": sum(rollout.completion.length for rollout in rollouts) / n,
        f"{place}/truncated/fraction": sum(rollout.completion.finish == "length" for rollout in rollouts) / n,
        **{f"{place}/part_{part}/mean": sum(values) / len(values) for part, values in by_part.items()},
    }
