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
from .values import is_name

FORMAT = 2


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
        "counts": _encoded(results.sentence_counts()),
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
        if content["format"] != FORMAT:
            raise ValueError(f"it is of format {content['format']}, but this version reads {FORMAT}")
        names = [method["name"] for method in content["study"]["methods"]]
        if wrong := [name for name in names if not is_name(name)]:  # the report names files by them
            raise ValueError(f"it has a method called {wrong[0]!r}")
        curves = {
            name: {what: [(int(update), float(value)) for update, value in curve] for what, curve in of_run.items()}
            for name, of_run in content["curves"].items()
        }
        return PackedResults(
            path.parent, content["study"], content["runs"], _decoded(content["counts"]), content["valid_losses"],
            curves,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise UserError(
            f"{path} is not what fairseq-dsp report --pack writes ({error}): give such a file, or a sweep's folder"
        ) from error


def _encoded(counts: dict[str, Any]) -> dict[str, Any]:
    """Return arrays of one shape, (sentences, columns), by the names of runs, as text."""
    import numpy as np

    all_counts = np.stack(list(counts.values()))
    values = all_counts.astype(np.min_scalar_type(int(all_counts.max(initial=0))).newbyteorder("<"))
    assert (values == all_counts).all()
    values[1:] -= values[0]  # modulo the type's size: runs translate most sentences alike
    # columns are alike from sentence to sentence: side by side they are smaller
    packed = zlib.compress(values.transpose(0, 2, 1).tobytes(), 9)
    return {
        "runs": list(counts),
        "shape": values.shape[1:],
        "type": values.dtype.str,
        "zlib": base64.b64encode(packed).decode(),
    }


def _decoded(packed: dict[str, Any]) -> dict[str, Any]:
    """Return what `_encoded` was given."""
    import numpy as np

    rows, columns = packed["shape"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["zlib"])), dtype=packed["type"])
    values = values.reshape(len(packed["runs"]), columns, rows).transpose(0, 2, 1).copy()
    values[1:] += values[0]
    return dict(zip(packed["runs"], values, strict=True))
