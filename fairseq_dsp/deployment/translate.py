"""FOLDER is one that fairseq-dsp export-folder or export-ctranslate2 wrote. Raw sentences come from standard input, a
line each, in UTF-8, and their translations go to standard output in the same order: of a file in full batches, from a
pipe or a terminal as soon as there are lines. A blank line stays blank. A sentence with more subwords than the model
has positions is cut there, and its line is told on standard error.

For a folder of CTranslate2, neither torch nor fairseq is imported.

examples:
  fairseq-dsp translate engine < test.de > test.en
  fairseq-dsp translate my-model --device cuda --batch-size 256 < test.de > test.en
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from . import reading
from .request import check_options
from .translator import BATCH_SIZE, BEAM, LENPEN, MAX_LEN_A, MAX_LEN_B, Search, Translator

BATCHES = 8
"""Batches that are sorted by length together: little padding, and a file need not be read whole."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="folder of an exported model")
    add("--beam", type=int, default=BEAM, metavar="N", help="beam size (default: %(default)s)")
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="sentences at once (default: %(default)s)")
    add("--lenpen", type=float, default=LENPEN, help="length penalty (default: %(default)s)")
    add(
        "--max-len-a", type=float, default=MAX_LEN_A, metavar="A",
        help="a translation ends at A · (length of the longest source at once) + B subwords (default: %(default)s)",
    )  # fmt: skip
    add("--max-len-b", type=int, default=MAX_LEN_B, metavar="B", help="see A (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads of the processor (default: the engine's choice)")


def run(args: argparse.Namespace) -> None:
    """Translate standard input."""
    search = Search(**{name: getattr(args, name) for name in Search._fields})
    check_options(**search._asdict())
    model = reading.read(args.folder, args.device, args.threads)
    if not isinstance(model, Translator):
        raise UserError(f"{args.folder} holds a model that classifies, but one that translates is expected: give one")
    try:
        _translate(model, search)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"the input cannot be read, or the output cannot be written: {error.strerror}") from error
    except KeyboardInterrupt:
        sys.exit(130)


def _translate(model: Translator, search: Search) -> None:
    from tqdm import tqdm

    output = sys.stdout.buffer
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    with tqdm(desc="translating", unit="line", unit_scale=True, disable=not shown) as bar:

        def tell(index: int, told: str) -> None:
            bar.write(f"line {done + index + 1} {told}", file=sys.stderr)

        done = 0
        for lines in _lines(sys.stdin.fileno(), search.batch_size * BATCHES):
            found = model.search(lines, search, tell)
            output.write("".join(line + "\n" for line in found).encode())
            output.flush()
            done += len(lines)
            bar.update(len(lines))


def _lines(handle: int, most: int) -> Iterator[list[str]]:
    """The lines of a UTF-8 text, as many at a time as there are without waiting, but *most* at most.

    :raises UserError: at a line that is not UTF-8, after those before it.
    """
    number = 0
    for block in _blocks(handle, most):
        lines: list[str] = []
        for raw in block:
            number += 1
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                if lines:
                    yield lines
                raise UserError(
                    f"line {number} of the input is not UTF-8 (byte 0x{raw[error.start]:02x}), and nothing after it is "
                    "translated: convert the text to UTF-8, for example with iconv"
                ) from error
            lines.append(line.removeprefix("\ufeff") if number == 1 else line)
        yield lines


def _blocks(handle: int, most: int) -> Iterator[list[bytes]]:
    """The same as bytes; only a line feed ends a line."""
    lines: deque[bytes] = deque()
    rest, ended = b"", False
    while lines or not ended:
        while len(lines) < most and not ended and (not lines or select.select([handle], [], [], 0)[0]):
            read = os.read(handle, 1 << 16)
            ended = not read
            *whole, rest = (rest + read).split(b"\n")
            lines.extend(whole)
            if ended and rest:
                lines.append(rest)
        if lines:
            yield [lines.popleft() for _ in range(min(most, len(lines)))]
