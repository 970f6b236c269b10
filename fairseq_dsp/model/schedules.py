"""Whether the schedules of a choice end one after the other, and before their training does."""

from __future__ import annotations

from .kinds import flag
from .plan import PruningPlan


def check_order(plan: PruningPlan) -> None:
    """Check that a budget has shrunk before its units are fixed.

    :raises ValueError: if not.
    """
    cooldown, name = plan.config.cooldown_updates, plan.kind.options.get("updates")
    shrinking = plan.kind.option(plan.config, "updates")
    if name and shrinking and shrinking > cooldown and plan.learns and not plan.selection.decides(cooldown):
        raise ValueError(
            f"{flag(name)} is {shrinking}, but with --cooldown-updates {cooldown} the {plan.kind.units} are fixed "
            "before that: lower the first, or raise the second"
        )


def fixed_at_once(plan: PruningPlan) -> str | None:
    """Return what is wrong with units that are fixed at the first update, unless their importance is learnt already."""
    if plan.config.cooldown_updates or not plan.learns or plan.selection.decides(0):
        return None
    return (
        f"--cooldown-updates is 0, so the {plan.kind.units} are fixed before anything says which are worth more: give "
        "about 30% of the updates"
    )


def end_of_choice(plan: PruningPlan) -> tuple[int, str] | None:
    """Return the update from which on nothing about a choice changes, and what that means; None if nothing does."""
    config, units = plan.config, plan.kind.units
    if not plan.learns or config.freeze_weights:
        return None
    cooldown = config.cooldown_updates
    fixes = not plan.selection.decides(cooldown)
    anneals = plan.selection.temperature(0) != plan.selection.temperature(cooldown)
    shrinking = plan.kind.option(config, "updates") or 0
    end = config.pruning_warmup_updates + max(cooldown if fixes or anneals else 0, shrinking)
    if fixes:
        return end, f"from which on the {units} are fixed: the weights never train with those that stay alone"
    return end, f"from which on the temperature and the number of {units} no longer change"


def ended_early(plan: PruningPlan, name: str, updates: int) -> str | None:
    """Return what to tell of a training that ends before its units are chosen, None of any other.

    :param name: what ends it, as an option with its value.
    :param updates: after how many.
    """
    warm_up, chosen = plan.config.pruning_warmup_updates, end_of_choice(plan)
    if chosen is None or updates >= chosen[0]:
        return None
    advice = f"give --cooldown-updates {max(1, (updates - warm_up) * 3 // 10)}, about 30% of the updates with pruning"
    if updates <= warm_up:
        advice = f"lower --pruning-warmup-updates {warm_up}"
    elif plan.selection.decides(plan.config.cooldown_updates):
        advice = "let the schedules of pruning end before the training does"
    return f"{name} ends this training before update {chosen[0]}, {chosen[1]}; {advice}"
