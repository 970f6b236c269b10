"""The pictures of a report."""

from __future__ import annotations

import math
import warnings

from matplotlib.figure import Figure

from fairseq_dsp.report import figures
from fairseq_dsp.study.results import Results


def test_a_long_legend_leaves_room_for_the_axes() -> None:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for i in range(25):
        axes.plot([1, 2], [i, i], label=f"a method whose title takes a whole line of the legend, number {i}")
    figures.legend(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, where the axes have no room
        text = figures.svg(figure)
    assert text.startswith("<svg")
    assert axes.get_window_extent().height > 3 * figure.dpi


def test_without_an_interval_there_is_no_band(made_up: Results) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [figures.svg(figures.score_curve(made_up, half)) for half in (1.0, math.inf)]
    assert ["95% CI" in text for text in drawn] == [True, False]
