"""The results of a sweep as one compact JSON file, from which a report is built without the sweep's folder.

It holds no text: of the translations only what scores are computed from, sentence by sentence.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .results import Results
from .runs import RUNS
from .training_log import Curve

FORMAT = 2
"""1 had all counts in four bytes."""


@dataclass(frozen=True)
class PackedResults(Results):
    """Results without a folder.

    :param counts: for each run its `Results.sentence_counts`.
    :param losses: for each run its `Results.valid_loss`.
    :param learning: `Results.curves`.
    """

    counts: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float | None] = field(default_factory=dict)
    learning: dict[str, dict[str, Curve]] = field(default_factory=dict)

    def sentence_counts(self) -> dict[str, Any]:
        """What the score of each run is computed from, sentence by sentence."""
        return self.counts

    def valid_loss(self, run: dict[str, Any]) -> float | None:
        """The validation loss of a run's model."""
        return self.losses[run["run"]]

    def curves(self) -> dict[str, dict[str, Curve]]:
        """The learning curves of all runs that trained, by the run's name."""
        return self.learning


def pack(results: Results) -> str:
    """Return results as JSON.

    :raises UserError: if a run's output is missing or does not belong to the references.
    """
    content = {
        "format": FORMAT,
        "study": results.study,
        "runs": results.runs,
        "valid_losses": {run["run"]: results.valid_loss(run) for run in results.runs},
        "curves": results.curves(),
        "counts": {name: _encoded(counts) for name, counts in results.sentence_counts().items()},
    }
    # names of files as a results folder has them: where it was when a run was done says nothing
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return re.sub(rf'"/[^"]*/({RUNS}/[^"]*)"', r'"\1"', text) + "\n"


def unpack(path: Path) -> PackedResults:
    """Read a file that `pack` made.

    :raises UserError: if it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] not in (1, FORMAT):
            raise ValueError(f"it is of format {content['format']}, but this version reads 1 to {FORMAT}")
        curves = {
            name: {what: [(int(update), float(value)) for update, value in curve] for what, curve in of_run.items()}
            for name, of_run in content["curves"].items()
        }
        return PackedResults(
            path.parent, content["study"], content["runs"], {n: _decoded(c) for n, c in content["counts"].items()},
            content["valid_losses"], curves,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(
            f"{path} is not what fairseq-dsp report --pack writes ({error}): give such a file, or a sweep's folder"
        ) from error


def _encoded(counts: Any) -> dict[str, Any]:
    import numpy as np

    kind = np.min_scalar_type(int(counts.max(initial=0))).newbyteorder("<")
    whole = counts.astype(kind)
    assert (whole == counts).all()
    # columns are alike from sentence to sentence: side by side they are smaller
    packed = zlib.compress(whole.T.tobytes(), 9)
    return {"shape": list(counts.shape), "type": kind.str, "zlib": base64.b64encode(packed).decode()}


def _decoded(counts: dict[str, Any]) -> Any:
    import numpy as np

    rows, columns = counts["shape"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(counts["zlib"])), dtype=counts.get("type", "<i4"))
    return values.reshape(columns, rows).T
