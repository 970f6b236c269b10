"""Multi30k, task 1, raw text (Elliott et al. 2016: Multi30K, Multilingual English-German Image Descriptions)."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.cleaning import Texts
from fairseq_dsp.preparation.corpora import Corpus, Recipe, split_names
from fairseq_dsp.preparation.download import fetch, text_hash
from fairseq_dsp.preparation.lines import find_text, read_pairs
from fairseq_dsp.preparation.stages import say

HELP = "image captions, German-English, 29,000 pairs; downloaded, or from --raw-dir"
DESCRIPTION = """Multi30k task 1 from its raw text: cased, untokenised. Its test sets become test (test_2016_flickr),
test1, test2, test3 for fairseq-generate --gen-subset."""
RECIPE = Recipe(bpe="sentencepiece", vocab_size=6000, languages=("de", "en"))

URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"

TEST_SETS = ["test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr"]

CHECKSUMS = {  # of the uncompressed text
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
    "test_2017_mscoco.de": "58277df3c75f92f7145a11b910b553d1cf82c439249d4dc237c899609eafac22",
    "test_2017_mscoco.en": "43051fdfa86fd5395182e718a94ca67b1b227b9f7c79596ff0f6b813216981d2",
    "test_2018_flickr.de": "39fcc8b3331d76fb42d648d019c6898b0d5e58baac87bc2a0bb93f44ec8db207",
    "test_2018_flickr.en": "4e585c2dd525911a6ea7730e9d0b516239af3f1b1ffae6a2130223cfb639f25e",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus."""
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder for everything")
    of_raw_dir = "folder with train.de, val.de, test_2016_flickr.de … or the same with .gz"
    add("--raw-dir", type=Path, metavar="DIR", help=of_raw_dir)
    add("--url", default=URL, help="where train.de.gz … are downloaded (default: %(default)s)")


def corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for."""
    return multi30k((args.source_lang, args.target_lang), args.raw_dir, args.url, args.out / "download")


def multi30k(languages: tuple[str, str], raw_dir: Path | None, url: str, downloads: Path) -> Corpus:
    """The corpus from a folder, or else from the network.

    :param languages: source and target, ``de`` and ``en`` in either order.
    :param raw_dir: folder with ``train.de``, ``val.de``, ``test_2016_flickr.de`` … or the same with ``.gz``; of the
        later test sets only those that are there are used.
    :param url: where the ``.gz`` files lie.
    :param downloads: folder to keep them in.
    :raises UserError: if a file is missing.
    """
    if raw_dir is None:
        tests = TEST_SETS
        origin: dict[str, object] = dict(CHECKSUMS)
    else:
        if not raw_dir.is_dir():
            raise UserError(f"--raw-dir {raw_dir} is not a folder")
        tests = [
            name for name in TEST_SETS if name == TEST_SETS[0] or any(_find(raw_dir, name, lang) for lang in languages)
        ]
        if left_out := [name for name in TEST_SETS if name not in tests]:
            say(f"{raw_dir} has no {', '.join(left_out)}: left out")
        origin = {}
        for name in ["train", "val", *tests]:
            for language in languages:
                path = _find(raw_dir, name, language)
                if not path:
                    raise UserError(
                        f"{raw_dir} has neither {name}.{language} nor {name}.{language}.gz: give a --raw-dir with "
                        f"train, val and {TEST_SETS[0]} of Multi30k in both languages"
                    )
                origin[f"{name}.{language}"] = text_hash(path)  # as if it had been downloaded

    def write_raw(texts: Texts) -> None:
        for split, name in zip(split_names(len(tests)), ["train", "val", *tests], strict=True):
            if raw_dir is None:
                downloads.mkdir(exist_ok=True)
                files = [f"{name}.{language}" for language in languages]
                paths = [fetch(f"{url}/{file}.gz", downloads / f"{file}.gz", CHECKSUMS[file]) for file in files]
            else:
                paths = [path for language in languages if (path := _find(raw_dir, name, language))]
            texts.write(split, read_pairs(*paths))

    return Corpus("multi30k", languages, origin, tests, write_raw)


def _find(folder: Path, name: str, language: str) -> Path | None:
    return find_text(folder / f"{name}.{language}")
