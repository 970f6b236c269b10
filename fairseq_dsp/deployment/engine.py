"""Translating with CTranslate2, from a folder that says what raw text goes through; without torch and fairseq."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import extras
from ..errors import UserError, not_allowed
from ..files import sha256, write_json
from .text import KINDS_OF_BPE, Text, check_files, own_checksum
from .translator import Search, Translator

WEIGHTS = "model.bin"
TEXT = "text.json"
"""Our own file in the folder: what raw text goes through, how many positions the model has."""

FORMAT = "fairseq_dsp text 1"
AGAIN = "export the model again with fairseq-dsp export-ctranslate2"


class EngineTranslator(Translator):
    """A :class:`~.translator.Translator` that is a model of CTranslate2.

    :param engine: CTranslate2's translator.
    :param text: what raw text goes through.
    :param positions: of source and target.
    """

    def __init__(self, engine: Any, text: Text, positions: tuple[int, int]) -> None:
        super().__init__(text, positions[0])
        self.engine, self._target_positions = engine, positions[1]

    def best(self, sources: list[list[str]], search: Search) -> list[str]:
        """Return the best translations; see :meth:`~.translator.Translator.best`."""
        longest = search.longest(len(sources[-1]) + 1)
        found = self.engine.translate_batch(
            sources,
            beam_size=int(search.beam),
            length_penalty=float(search.lenpen) or 1e-6,  # at exactly 0 the engine stops earlier than fairseq
            max_input_length=0,
            max_decoding_length=min(longest, self._target_positions - 1),  # as fairseq has it
        )
        return [" ".join(result.hypotheses[0]) for result in found]


def write(folder: Path, text: dict[str, Any], positions: tuple[int, int]) -> None:
    """Complete a folder of CTranslate2 by what raw text goes through.

    :param text: see :class:`~.text.Text`; its subword model is in the folder.
    :param positions: of source and target.
    """
    source, target = positions
    config = {"format": FORMAT, **text, "positions": {"source": source, "target": target}}
    config["sha256"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    config["sha256"][TEXT] = own_checksum(config, TEXT)
    write_json(folder / TEXT, config)


def read(folder: Path, device: str, threads: int | None) -> EngineTranslator:
    """Read a folder that ``fairseq-dsp export-ctranslate2`` wrote; see `fairseq_dsp.from_pretrained`."""
    extras.ctranslate2()  # that it is missing is told first
    config = _config(folder)
    text = Text(config, folder)
    positions = config["positions"]["source"], config["positions"]["target"]
    return EngineTranslator(load(folder, device, threads or 0), text, positions)


def load(folder: Path, device: str, threads: int) -> Any:
    """Return CTranslate2's translator of a folder.

    :param device: cpu, cuda, or cuda with a number, such as cuda:1.
    :param threads: 0 for as many as the engine uses by itself.
    :raises UserError: if it is damaged, of another version, or the device is missing.
    """
    ctranslate2 = extras.ctranslate2()
    kind, _, index = device.partition(":")
    try:
        return ctranslate2.Translator(str(folder), device=kind, device_index=int(index or 0), intra_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"CTranslate2 {ctranslate2.__version__} cannot load {folder} on the device {device} "
            f"({str(error).splitlines()[0]}): give another device, or {AGAIN}"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """Return what a folder's `TEXT` says.

    :raises UserError: if it is not there, or not one, or names other files than the folder's, or they were altered.
    """
    file = folder / TEXT
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise UserError(f"{file} is of the format {config['format']}, but {FORMAT} is expected: {AGAIN}")
        models, own = [config["bpe_model"]] if config["bpe"] else [], own_checksum(config, TEXT)
        check_files(folder, TEXT, config["sha256"], models, again=AGAIN, own=own)  # earlier folders have none of TEXT
        if config["bpe"] not in (None, *KINDS_OF_BPE):
            raise ValueError(f"bpe is {config['bpe']}")
        least = min(int(config["positions"][side]) for side in ("source", "target"))
        if least < 2 or not {"tokenizer", "lowercase", "source_lang", "target_lang"} <= set(config):
            raise ValueError("something is missing")
    except UserError:
        raise
    except PermissionError as error:
        raise not_allowed(error) from error
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {TEXT}, which says how raw text is cut into subwords: {AGAIN}, --bpe and --bpe-model"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{file} does not say how raw text is cut into subwords ({reason}): {AGAIN}") from error
    return config
