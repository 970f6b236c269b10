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


def test_maps_have_a_column_for_each_unit_there_was(made_up: Results) -> None:
    """Of stacks with different numbers of heads, only the results say how many."""
    row = next(row for row in made_up.rows() if row.runs[0]["scores"]["kept"])
    for run in row.runs:
        run["scores"]["sizes"] = {"encoder_self": 5, "decoder_self": 2, "cross": 3}
    figure = figures.head_maps(made_up, row.label)
    columns = [axes.collections[0].get_coordinates().shape[1] - 1 for axes in figure.axes]
    assert sorted(set(columns)) == [2, 3, 5]
