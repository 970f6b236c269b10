"""Results of a study that nobody trained: an unpruned model and two methods, for tests of the report."""

from __future__ import annotations

import json
import random
from pathlib import Path

from sacrebleu.metrics import BLEU

from fairseq_dsp.study.results import Results, read_results

WORDS = "one two three four five six seven eight nine ten".split()
REFERENCES = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(60)]
RUNS = {  # (method, heads, seed) → how often a word is wrong
    ("base", 12, 1): 0.1, ("base", 12, 2): 0.1, ("joint", 6, 1): 0.3, ("joint", 6, 2): 0.3, ("paper", 6, 1): 0.15,
    ("paper", 6, 2): 0.15, ("paper", 3, 1): 0.2, ("joint", 3, 3): 0.2,
}  # fmt: skip


def name_of(run: tuple[str, int, int]) -> str:
    """The name that a sweep gives a run."""
    label, heads, seed = run
    return f"base-s{seed}" if label == "base" else f"{label}-k{heads}-s{seed}"


def translation(errors: float, seed: int) -> list[str]:
    """The references with words replaced."""
    draw = random.Random(f"{errors} {seed}")
    return [" ".join("zero" if draw.random() < errors else w for w in line.split()) for line in REFERENCES]


def kept_heads(heads: int, seed: int) -> dict[str, object]:
    """Some of 12 heads: 2 layers of 2 for each type."""
    places = [
        (kind, layer, h) for kind in ("encoder_self", "decoder_self", "cross") for layer in (0, 1) for h in (0, 1)
    ]
    chosen = random.Random(seed).sample(places, heads)
    kinds = dict.fromkeys(kind for kind, *_ in places)
    heads_of = {k: [[h for h in (0, 1) if (k, layer, h) in chosen] for layer in (0, 1)] for k in kinds}
    return {"total": 12, "kept": heads, **heads_of}


def log(heads: int) -> str:
    """The log of a training."""
    lines = ["", "$ python -m fairseq_cli.train data --save-dir /run/checkpoints --seed 1"]
    for update in range(10, 101, 10):
        values = {"loss": str(9 - update / 20 + 1 / heads), "num_updates": str(update)}
        values |= {"temperature": str(0.9**update), "gate_softness": str(1 / update)} if heads < 12 else {}
        lines.append(f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps(values)}")
    return "\n".join([*lines, 'x | INFO | valid | {"valid_loss": "4.5", "valid_num_updates": "100"}', ""])


def write(folder: Path) -> Results:
    """Write the results into *folder*, as a sweep would."""
    data = {"source_lang": "xx", "target_lang": "yy", "lowercase": False, "tokenizer": "none"}
    names = [name_of(run) for run in RUNS]
    study = {"name": "made-up", "description": "", "total": 12, "split": "test", "beam": 1, "data": data, "runs": names}
    titles = {"joint": "exact subsets", "paper": "DSP, released settings (Li et al. 2021)"}
    study["methods"] = [{"name": name, "method": "joint", "title": title} for name, title in titles.items()]
    (folder / "study.json").write_text(json.dumps(study))
    (folder / "references.txt").write_text("".join(line + "\n" for line in REFERENCES))
    for run, errors in RUNS.items():
        label, heads, seed = run
        text = translation(errors, seed)
        score = {"score": BLEU().corpus_score(text, [REFERENCES]).score, "signature": ""}
        scores = {"bleu": score, "chrf": score, "tokenised_bleu": score, "parameters": 1000 + heads}
        scores |= {"kept": kept_heads(heads, seed), "sentences_per_second": 100 - heads}
        result = {"run": name_of(run), "label": label, "heads": heads, "seed": seed, "scores": scores}
        own = folder / "runs" / name_of(run)
        own.mkdir(parents=True)
        (own / "translations.txt").write_text("".join(line + "\n" for line in text))
        (own / "result.json").write_text(json.dumps(result | {"training_seconds": 1}))
        (own / "log.txt").write_text(log(heads))
    return read_results(folder)
