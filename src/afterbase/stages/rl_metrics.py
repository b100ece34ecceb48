"""The numbers of one round of rollouts, over all and by domain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from afterbase.errors import AfterbaseError
from afterbase.records import Rollout

NO_NAME = r"[/\s]"
"""What a domain may hold and a metric's name may not."""


def rollout_metrics(groups: Sequence[Sequence[Rollout]], max_errors: float) -> dict[str, float]:
    """Reward, accuracy, length and outcomes of a round; AfterbaseError when too many verdicts failed to mean anything."""
    rollouts = [rollout for group in groups for rollout in group]
    outcomes = Counter(rollout.score.outcome for rollout in rollouts)
    if outcomes["error"] > max_errors * len(rollouts):
        note = next(rollout.score.note for rollout in rollouts if rollout.score.outcome == "error")
        raise AfterbaseError(
            f"{outcomes['error']} of {len(rollouts)} verdicts failed in one round (the first: {note}); at most max_errors={max_errors} "
            "may, because they teach nothing; mend the verifier and run the same command to go on"
        )
    metrics: dict[str, float] = {"train/rollouts/count": len(rollouts)}
    metrics |= _numbers("train", [rollout for rollout in rollouts if rollout.score.outcome != "error"])
    metrics |= {f"outcome/{outcome}/count": outcomes[outcome] for outcome in ("correct", "wrong", "no_answer", "timeout", "error")}
    for domain in sorted({rollout.prompt.domain for rollout in rollouts}):
        judged = [rollout for rollout in rollouts if rollout.prompt.domain == domain and rollout.score.outcome != "error"]
        metrics |= _numbers(f"domain_{re.sub(NO_NAME, '_', domain)}", judged)
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
        f"{place}/response_length/mean": sum(len(rollout.completion.tokens) for rollout in rollouts) / n,
        f"{place}/truncated/fraction": sum(rollout.completion.finish == "length" for rollout in rollouts) / n,
        **{f"{place}/part_{part}/mean": sum(values) / len(values) for part, values in by_part.items()},
    }
