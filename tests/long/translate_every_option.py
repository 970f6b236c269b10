"""Does every export of a model trained with any option of fairseq's Transformer translate as the model does?

    python tests/long/translate_every_option.py [NAME …]

For each set of options in tests/every_option.py, a tiny model with 6 of 12 heads is trained for 5 updates by
fairseq-train and translated with by fairseq-generate. The compact checkpoint and the one for stock fairseq are too, the
latter without the plugin; the exported folder and CTranslate2 translate in Python. Prints how many of 20 translations
are the same, or that the export was refused. The engine is compared with empty translations allowed, which it forbids
before the softmax and fairseq after it: with a model of 5 updates, that makes a difference. So does what each of them
does with a translation that has not ended at the longest length.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import support
from every_option import CASES

import fairseq_dsp
from fairseq_dsp.cli import main as main_command

LONGEST = 30
COLUMNS = ("compact", "export-fairseq", "export-folder", "export-ctranslate2")


def generated(data: Path, path: Path, *flags: object) -> list[str]:
    """Return what fairseq-generate translates the test set to."""
    batches = ("--batch-size", 20, "--required-batch-size-multiple", 1)
    given = ("--path", path, "--beam", 5, "--max-len-b", LONGEST, *batches, "--cpu", *flags)
    output = support.run_fairseq("generate", data, *given, timeout=3000).stdout
    found = {int(n): text for n, text in re.findall(r"^H-(\d+)\t[^\t]*\t(.*)$", output, re.MULTILINE)}
    return [found[i] for i in range(20)]


def translated(name: str, data: Path, sources: list[str], out: Path) -> list[str]:
    """Return what an exported model translates the test set to."""
    if name == "export-folder":
        return fairseq_dsp.from_pretrained(str(out)).translate(sources, max_len_b=LONGEST)
    if name == "export-ctranslate2":
        import ctranslate2

        engine = ctranslate2.Translator(str(out), intra_threads=1)
        limits = {"max_decoding_length": LONGEST, "min_decoding_length": 0}
        found = engine.translate_batch([s.split() for s in sources], beam_size=5, **limits)
        return [" ".join(word for word in result.hypotheses[0] if word != "<s>") for result in found]
    return generated(data, out, *(("--user-dir", "fairseq_dsp") if name == "compact" else ()))


def row(flags: str, folders: dict[bool, Path], work: Path) -> list[str]:
    """Train with *flags*; return a cell for each of `COLUMNS`."""
    data = folders["JOINED" in flags]
    sources = (data.parent / "test.xx").read_text(encoding="utf-8").splitlines()
    vectors = work / "vectors.txt"
    vectors.write_text("1 16\nba " + " ".join(["0.5"] * 16) + "\n", encoding="utf-8")
    given = [str(vectors) if word == "EMBEDDINGS" else word for word in shlex.split(flags) if word != "JOINED"]
    args = support.tiny_train_args(data, work / "run", "--max-update", 5, "--lr", 0.02, "--heads-to-keep", 6)
    if "--adaptive-softmax-cutoff" in flags:
        given += ["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"]
        smoothing = args.index("--label-smoothing")
        del args[smoothing : smoothing + 2]
    support.run_fairseq("train", *args, "--arch", "transformer_dsp", *given, timeout=3000)
    checkpoint = work / "run" / "checkpoint_last.pt"
    expected = generated(data, checkpoint, "--user-dir", "fairseq_dsp")
    cells = []
    for name in COLUMNS:
        out = work / f"{name}.pt"
        subwords = ("--data", str(data), "--bpe", "none") if name == "export-folder" else ()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            status = main_command([name, str(checkpoint), str(out), *subwords])
        if status:
            assert not out.exists()
            assert len([line for line in said.getvalue().splitlines() if line.startswith("fairseq-dsp")]) == 1
            cells.append("refused")
        else:
            found = translated(name, data, sources, out)
            if name == "export-ctranslate2":
                expected = generated(data, checkpoint, "--user-dir", "fairseq_dsp", "--min-len", 0)
            cells.append(f"{sum(map(str.__eq__, found, expected))}")
    return cells


def main() -> None:
    """Try them all and print."""
    print(f"| options | {' | '.join(COLUMNS)} |\n|---|{'--:|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        folders = {}
        for joined, flags in ((False, ()), (True, ("--joined-dictionary",))):
            (Path(folder) / str(joined)).mkdir()
            folders[joined] = support.make_tiny_data(Path(folder) / str(joined), *flags)
        for number, name in enumerate(sys.argv[1:] or CASES):
            work = Path(folder) / str(number)
            work.mkdir()
            print(f"| {name} | {' | '.join(row(CASES[name][0], folders, work))} |", flush=True)


if __name__ == "__main__":
    main()
