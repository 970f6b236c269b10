"""The scores of `fairseq-dsp evaluate` for people: of one model, or a table of several numbers of heads."""

from __future__ import annotations

import math
from typing import Any

from ..model import HeadSet
from .prepared import PreparedData
from .scoring import TITLES, metric_names


def title(result: dict[str, Any]) -> str:
    """What was scored."""
    beam = f", beam {result['beam']}" if "beam" in result else ""
    return f"{result['checkpoint']}: {result['split']}, {result['sentences']:.0f} sentences{beam}"


def header(data: PreparedData) -> str:
    """The first line of the table of several numbers of heads."""
    return f"  {'heads':>5}" + "".join(f"  {TITLES[name]:>14}" for name in metric_names(data)) + "  sentences a second"


def row(result: dict[str, Any], data: PreparedData) -> str:
    """The line of one of them."""
    scores = "".join(f"  {result[name]['score']:14.2f}" for name in metric_names(data))
    return f"  {result['heads_to_keep']:5}{scores}  {result.get('sentences_per_second', math.nan):18.1f}"


def text(result: dict[str, Any]) -> str:
    """The scores of one checkpoint for people."""
    heads = "" if result["heads_to_keep"] is None else f", {result['heads_to_keep']} heads"
    lines = [f"{title(result)}{heads}"]
    if "accuracy" in result:
        low, high = result["interval"]
        lines.append(f"  {'accuracy':<15} {result['accuracy']['score']:6.2f}   95% interval {low:.2f} to {high:.2f}")
    for key in ("tokenised_bleu", "bleu", "chrf"):
        if key not in result:
            continue
        name = TITLES[key]
        best = (result.get("ceiling") or {}).get(key, 100)
        at_most = f" (a perfect translation: {best:.2f})" if best < 100 else ""
        lines.append(f"  {name:<15} {result[key]['score']:6.2f}{at_most}   {result[key]['signature']}")
    if result.get("stopped_at_limit"):
        lines.append(
            f"  {'stopped':<15} {result['stopped_at_limit']:6.0f}   translations at the limit of their length: if they "
            "are cut off, raise it with --max-len-b or --max-len-a"
        )
    if "sentences_per_second" in result:
        lines.append(f"  {'speed':<15} {result['sentences_per_second']:6.1f}   sentences a second")
    if result["kept"]:
        lines.append(f"  {'heads':<15} {result['kept']['kept']:6}   of {result['heads']}")
        for units in HeadSet.from_json(result["kept"]).others:
            lines.append(f"  {units.kind.name + ' units':<15} {units.kept:6}   of {units.total}")
    return "\n".join(lines)
