"""Getting public files, with their checksums."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from ..errors import UserError
from ..files import replacing
from .lines import blocks
from .stages import progress, say


def text_hash(path: Path) -> str:
    """SHA-256 of what a file holds once decompressed: gzip writes other bytes on another day, the text stays.

    :raises UserError: if it is missing, or compressed and damaged.
    """
    sha256 = hashlib.sha256()
    for block in blocks(path):
        sha256.update(b"".join(block))
    return sha256.hexdigest()


def fetch(url: str, target: Path, sha256: str | None = None) -> Path:
    """Download ``url`` to ``target`` unless it is there; an incomplete or wrong file is never left under that name.

    :param url: what to get.
    :param target: the file to write.
    :param sha256: what `text_hash` must give.
    :raises UserError: if there is no way to the address, or the text is not the expected one.
    """
    if target.is_file():
        if sha256 is None or text_hash(target) == sha256:
            return target
        target.unlink()
    say(f"downloading {url}")
    try:
        with replacing(target) as partial:
            _download(url, partial, target.name)
            found = text_hash(partial) if sha256 else None
            if found != sha256:
                raise UserError(
                    f"{url} gave a text with SHA-256 {found}, expected {sha256}: get the corpus elsewhere and give "
                    "its folder with --raw-dir"
                )
    except UserError:
        raise
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot download {url} ({reason}): get the corpus elsewhere and give its folder with --raw-dir"
        ) from error
    return target


def _download(url: str, path: Path, name: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with progress(total=size or None, unit="B", unit_scale=True, desc=name, disable=size < 1 << 20) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    if size and path.stat().st_size != size:
        raise UserError(
            f"the download of {url} stopped after {path.stat().st_size} of {size} bytes: run the command again"
        )
