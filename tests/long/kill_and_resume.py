#!/usr/bin/env python3
"""Kill a training at random moments and in the middle of writing checkpoints, resume, and compare with one left alone.

    python tests/long/kill_and_resume.py [--kills 24] [--updates 300] [--seed 1] [FLAGS OF fairseq-train …]

One training runs straight through. Another, the same but for its folder, is killed with SIGKILL again and again: two
thirds of the times at a random moment, otherwise in the middle of writing a checkpoint (the copy of checkpoint_last.pt,
the first file of a save, the best one). After each kill every checkpoint is read to its end, and the training may have
lost only the updates since the last save. In the end model, optimiser and place in the data must agree bit for bit.
Flags that follow are given to both trainings, for instance: --arch transformer_dsp --heads-to-keep 6
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

import kills
import support
import torch
from tqdm import tqdm

SAVE_EVERY = 10
WRITES = ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="how often to kill (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=300, help="length of the training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments to kill at (default: %(default)s)")
    options, flags = parser.parse_known_args()
    if "--arch" in flags:
        where = flags.index("--arch")
        arch, flags = flags[where + 1], flags[:where] + flags[where + 2 :]
    else:
        arch = "transformer"
    with tempfile.TemporaryDirectory() as folder:
        report = prove(Path(folder), options.kills, options.updates, random.Random(options.seed), arch, flags)
    print(report)


def prove(folder: Path, count: int, updates: int, draw: random.Random, arch: str, flags: list[str]) -> str:
    """Do what the module says, in *folder*, and return a line of figures. Raises AssertionError where it fails."""
    data = support.make_tiny_data(folder)
    saves = ("--max-update", updates, "--save-interval-updates", SAVE_EVERY, "--keep-interval-updates", 3)
    saves += ("--log-interval", 1)

    def arguments(name: str) -> list[str]:
        return support.tiny_train_args(data, folder / name, *saves, *flags, arch=arch)

    support.run_fairseq("train", *arguments("straight"), timeout=3600)

    where, written = [0], 0
    last = folder / "killed" / "checkpoint_last.pt"
    # The moments are spread over the whole training; the last save before the end is left for the writes.
    moments = sorted(draw.uniform(1, updates - 2 * SAVE_EVERY) for _ in range(count))
    for turn, moment in enumerate(tqdm(moments, desc="kills")):
        reached = where[-1]
        if turn % 3 == 2:
            kills.kill_in_write(arguments("killed"), WRITES[turn // 3 % len(WRITES)], folder)
            written += 1
        else:
            reached = max(reached, int(moment))
            kills.kill_at(arguments("killed"), int(moment), draw.uniform(0, 0.1), folder)
        kills.whole_checkpoints(folder / "killed")
        where.append(updates_in(last))
        # At most the updates since the last save are lost; a save in progress at the kill may be the one lost.
        assert where[-1] > reached - 2 * SAVE_EVERY, f"kill {turn + 1} at update {reached} left {where[-1]}: too few"
        assert where[-1] >= where[-2], f"kill {turn + 1} threw the training back from {where[-2]} to {where[-1]}"
    support.run_fairseq("train", *arguments("killed"), timeout=3600)
    kills.assert_same_training(last, folder / "straight" / "checkpoint_last.pt")
    assert not list(last.parent.glob("*.tmp")), "temporary files were left behind"
    return (
        f"{arch} {' '.join(flags)}: {count} kills, {written} of them inside a write, after which the last checkpoint "
        f"held updates {where[1:]}; every checkpoint was whole each time; after {updates} updates model, optimiser and "
        "place in the data are those of a training straight through, bit for bit"
    )


def updates_in(checkpoint: Path) -> int:
    """How many updates the training of *checkpoint* has done; 0 where there is none yet."""
    if not checkpoint.exists():
        return 0
    return torch.load(checkpoint, weights_only=True)["optimizer_history"][-1]["num_updates"]


if __name__ == "__main__":
    main()
