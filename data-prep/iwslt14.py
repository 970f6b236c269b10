"""IWSLT'14 German-English (TED talks), prepared as the published results on it are.

That preparation: titles and descriptions of the talks are sentences like the others; Moses tokenisation; training pairs
of more than 175 tokens on a side, or one side more than 1.5 times as long as the other, are left out; lower case; every
23rd of the remaining pairs is for validation; the test set is dev2010, dev2012 (TEDx), tst2010, tst2011 and tst2012 in
a row.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import new_folder, settings_key
from fairseq_dsp.plain import is_blank, plain
from fairseq_dsp.preparation.cleaning import Texts
from fairseq_dsp.preparation.corpora import Corpus, Recipe
from fairseq_dsp.preparation.download import fetch, text_hash
from fairseq_dsp.preparation.lines import DamagedError, Pairs, find_text, parallel, read_lines, read_pairs, stored_lines
from fairseq_dsp.preparation.stages import say
from fairseq_dsp.preparation.tokens import detokenise, tokenise

HELP = "TED talks, German-English, 160,000 pairs; downloaded, or from --raw-dir"
DESCRIPTION = """IWSLT'14 as the published results on it are prepared: Moses tokenisation, lower case, 10,000 BPE
merges, separate dictionaries. From the raw archive, or from text that is tokenised already."""
RECIPE = Recipe(
    bpe="subword-nmt", vocab_size=10000, languages=("de", "en"), fixed={"tokenizer": "moses", "lowercase": True}
)

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"

TEST_PARTS = ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"]

CHECKSUMS = {
    "IWSLT14.TED.dev2010.de-en.de.xml": "6bb2e8272bc49a4f19df2150a482a1b856fa6a2d6b289d3a80ac6b4ff66070fe",
    "IWSLT14.TED.dev2010.de-en.en.xml": "5c860ebb64d4ecdc65800c7ba59732d27cff8b296fa7eeafbcd4614a2c572700",
    "IWSLT14.TED.tst2010.de-en.de.xml": "5648c0a3a6e5eb3ab6fbdfbdeca69a20a1637a37361e337ab47418d71972880d",
    "IWSLT14.TED.tst2010.de-en.en.xml": "fa9ce190959320cb5a5a68358ad793e5863621f87a28e9f4312110ac5b842efc",
    "IWSLT14.TED.tst2011.de-en.de.xml": "a70163216273ab5622cbbb19fea6dfde42ab6d3ad70374444323e65f71837735",
    "IWSLT14.TED.tst2011.de-en.en.xml": "d350eac4cb6f0cf3e787c9e82b8074bdc7e58c4ca7d650c9b97de8a677068695",
    "IWSLT14.TED.tst2012.de-en.de.xml": "edf69bd9e41acd93e13d01f55a2906b7be0f69cd90a46e343294dfd3190db952",
    "IWSLT14.TED.tst2012.de-en.en.xml": "cd73e997ce078699863278daef06b9a226d1adbec4c3cac91a0894d7eab5c1f8",
    "IWSLT14.TEDX.dev2012.de-en.de.xml": "e818a77a43e18ec4726a698e5aa9c438e0cd4b82d4edd27286163bee44e85604",
    "IWSLT14.TEDX.dev2012.de-en.en.xml": "a5de03e0e18cf5ad4b2b4ba66f11510a8576fa1a7c172190860cabfd17bff99a",
}

MAX_TOKENS = 175
MAX_RATIO = 1.5
VALID_EVERY = 23
TITLE_TAGS = re.compile(r"</?(title|description)>")
SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus."""
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder for everything")
    of_raw_dir = (
        "folder with the unpacked archive (train.tags.de-en.*, IWSLT14.*.xml), or with tokenised train.*, valid.* and "
        "test.*, any of these compressed or not, and perhaps BPE merges in code; may be given again, for example for "
        "the XML files, whose text is then the untokenised reference"
    )
    add("--raw-dir", type=Path, metavar="DIR", action="append", default=[], help=of_raw_dir)
    add("--url", default=URL, help="where the archive is downloaded (default: %(default)s)")


def corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for."""
    languages = (args.source_lang, args.target_lang)
    use_codes = args.bpe == "subword-nmt" and args.vocab_size is None
    downloads = args.out / "download"
    return iwslt14(languages, args.raw_dir, args.url, downloads, use_codes=use_codes, workers=args.workers)


def iwslt14(
    languages: tuple[str, str], raw_dirs: list[Path], url: str, downloads: Path, *, use_codes: bool, workers: int
) -> Corpus:
    """The corpus from folders, or else from the network.

    :param languages: source and target, ``de`` and ``en`` in either order.
    :param raw_dirs: searched in order; together they hold either the unpacked archive (``train.tags.de-en.de``,
        ``IWSLT14.TED.dev2010.de-en.de.xml`` …), or tokenised ``train.de``, ``valid.de``, ``test.de`` …; with these,
        ``code`` (ready BPE merges) and the XML files (untokenised references of the test set) are used where found.
    :param url: of the archive, for when there is no folder.
    :param downloads: folder to keep and unpack it in.
    :param use_codes: take the ready merges.
    :param workers: processes for the tokenisation.
    :raises UserError: if a file is missing.
    """
    for folder in raw_dirs:
        if not folder.is_dir():
            raise UserError(f"--raw-dir {folder} is not a folder")
    if raw_dirs and not _find(raw_dirs, _train_name("de")) and _find(raw_dirs, "train.de"):
        return _tokenised(languages, raw_dirs, use_codes)
    names = [_train_name(language) for language in languages]
    names += [_xml_name(part, language) for part in TEST_PARTS for language in languages]
    if raw_dirs:
        origin: dict[str, object] = {name: text_hash(_need(raw_dirs, name)) for name in names}
    else:
        origin = {"url": url}

    def write_raw(texts: Texts) -> None:
        folders = raw_dirs or [_download(url, downloads, names)]
        source, target = (_train_name(language) for language in languages)
        sides = (_strip_train(read_lines(_need(folders, name))) for name in (source, target))
        texts.write("train", parallel(*sides, (source, target)))
        texts.write("test", _read_test(folders, languages))

    def write_tokenised(raw: Path, texts: Texts) -> None:
        for split in ("test", "train"):
            sides = (
                tokenise(
                    stored_lines(raw / f"{split}.{language}"), language, workers=workers,
                    label=f"tokenising {split}.{language}",
                )
                for language in languages
            )  # fmt: skip
            pairs = zip(*sides, strict=True)
            if split == "test":
                texts.write(split, ((a.lower(), b.lower()) for a, b in pairs))
            else:
                for name, a, b in split_train(pairs):
                    texts.add(name, a, b)
        sizes = texts.pairs["train"], texts.pairs["valid"]
        say(f"{sizes[0]} training and {sizes[1]} validation pairs (of the full corpus: 160239, 7283)")

    return Corpus("iwslt14", languages, origin, ["iwslt14_test"], write_raw, write_tokenised, splits_late=True)


def _tokenised(languages: tuple[str, str], raw_dirs: list[Path], use_codes: bool) -> Corpus:
    """The corpus from text that is tokenised already."""
    names = [f"{split}.{language}" for split in ("train", "valid", "test") for language in languages]
    origin: dict[str, object] = {name: text_hash(_need(raw_dirs, name)) for name in names}
    if any(line != line.lower() for name in names for line in read_lines(_need(raw_dirs, name))):
        origin["capitals"] = "lower-cased"
    names = [_xml_name(part, language) for part in TEST_PARTS for language in languages]
    xml = {name: text_hash(path) for name in names if (path := _find(raw_dirs, name))}
    origin |= xml
    codes = _find(raw_dirs, "code") if use_codes else None
    if codes and codes.suffix:
        raise UserError(f"{codes} is compressed, but BPE merges are read as they are: decompress it")
    if codes:
        origin["code"] = text_hash(codes)

    def read(split: str) -> Iterator[tuple[str, str]]:
        return read_pairs(*(_need(raw_dirs, f"{split}.{language}") for language in languages))

    def write_raw(texts: Texts) -> None:
        if xml:
            texts.write("test", _read_test(raw_dirs, languages))
            there = sum(not (is_blank(a) or is_blank(b)) for a, b in read("test"))
            if there != texts.pairs["test"]:
                raise UserError(
                    f"test.{languages[0]} has {there} lines and the XML files have {texts.pairs['test']} segments: "
                    "expected the same sentences in both"
                )
        else:
            source = detokenise((a for a, _ in read("test")), languages[0])
            target = detokenise((b for _, b in read("test")), languages[1])
            texts.write("test", zip(source, target, strict=True))

    def write_tokenised(_: Path, texts: Texts) -> None:
        for split in ("train", "valid", "test"):
            texts.write(split, ((a.lower(), b.lower()) for a, b in read(split)))

    return Corpus(
        "iwslt14", languages, origin, ["iwslt14_test"], write_raw, write_tokenised, codes, detokenised=not xml
    )


def split_train(pairs: Pairs) -> Iterator[tuple[str, str, str]]:
    """Tokenised pairs, cleaned and lower-cased: ``train`` or ``valid``, source and target of each."""
    kept = 0
    for source, target in pairs:
        lengths = len(source.split()), len(target.split())
        if min(lengths) and max(lengths) <= MAX_TOKENS and max(lengths) <= MAX_RATIO * min(lengths):
            kept += 1
            yield "train" if kept % VALID_EVERY else "valid", source.lower(), target.lower()


def _train_name(language: str) -> str:
    return f"train.tags.de-en.{language}"


def _xml_name(part: str, language: str) -> str:
    return f"IWSLT14.{part}.de-en.{language}.xml"


def _strip_train(lines: Iterable[str]) -> Iterator[str]:
    """The sentences of a train.tags file."""
    for line in lines:
        if not re.search("<(url|talkid|keywords)>", line):
            yield plain(TITLE_TAGS.sub("", line))


def _segments(path: Path) -> list[str]:
    """The sentences of an XML file, entities left as they are."""
    found = [match[1] for line in read_lines(path) if (match := SEGMENT.search(line))]
    if not found:
        raise UserError(f'{path} has no <seg id="…">: expected the XML of an IWSLT test set')
    return [segment.replace("’", "'") for segment in found]


def _read_test(folders: list[Path], languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for part in TEST_PARTS:
        source, target = (_need(folders, _xml_name(part, language)) for language in languages)
        yield from parallel(_segments(source), _segments(target), (source, target))


def _find(folders: list[Path], name: str) -> Path | None:
    places = (find_text(folder / inner / name) for folder in folders for inner in ("", "de-en"))
    return next(filter(None, places), None)


def _need(folders: list[Path], name: str) -> Path:
    path = _find(folders, name)
    if not path:
        raise UserError(
            f"{name} is not in {' nor in '.join(map(str, folders))}: expected the files of the IWSLT'14 archive "
            "(train.tags.de-en.*, IWSLT14.*.xml), or tokenised train.*, valid.* and test.*"
        )
    return path


def _download(url: str, downloads: Path, names: list[str]) -> Path:
    """The folder with the unpacked archive, one for each address; an archive that is no use is not kept."""
    folder = downloads / ("de-en" if url == URL else f"de-en-{settings_key(url)}")
    if not folder.is_dir():
        downloads.mkdir(exist_ok=True)
        archive = fetch(url, downloads / f"{folder.name}.tgz")
        elsewhere = "get the corpus elsewhere and give its folder with --raw-dir"
        try:
            text_hash(archive)  # to the end, where gzip has its checksum
            with tarfile.open(archive) as tar, new_folder(folder) as partial:
                partial.mkdir()
                members = {Path(member.name).name: member for member in tar if member.isfile()}
                for name in names:
                    if name not in members:
                        raise _UnusableError(f"the archive of {url} lacks {name}: {elsewhere}")
                    content = tar.extractfile(members[name])
                    assert content is not None  # of a file, which it is
                    with content, (partial / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    expected = CHECKSUMS.get(name)
                    if expected and text_hash(partial / name) != expected:
                        raise _UnusableError(
                            f"{name} in {url} is not the expected file (SHA-256 {expected}): {elsewhere}"
                        )
        except _UnusableError:
            archive.unlink()
            raise
        except (DamagedError, tarfile.TarError, EOFError) as error:
            archive.unlink()
            raise UserError(f"{url} gave a damaged archive ({error}): run the command again, or {elsewhere}") from error
    return folder


class _UnusableError(UserError):
    """An archive that is whole, but not the corpus."""
