"""``--user-dir fairseq_dsp`` where the package is imported already.

Broken: ve-fairseq 0.12.3 compares the folder of ``--user-dir`` with the folder of the imported package as text, and
raises when they differ. They do when the package came from an installed wheel, which fairseq looks for under
``…/fairseq/../fairseq_dsp``, and when an installed copy was imported before the one in the working folder was named.

Fix: once this package is imported, a ``--user-dir`` of its name is taken as done if it is the same code, and refused
with one sentence if it is other code. Can go when fairseq takes the name of an installed package as ``--user-dir``.
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq import utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import PACKAGE
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function through which every fairseq tool imports ``--user-dir``."""
    wrap(utils, "import_user_module", _knowing_this_package)


def _knowing_this_package(stock_import: Callable[[Any], None], args: Any) -> None:
    asked = getattr(args, "user_dir", None)
    if asked is None or Path(asked).absolute().name != PACKAGE.name:
        return stock_import(args)
    # A relative name that is not in the working folder can only mean the installed package: this one.
    if Path(asked).exists() and not same_code(Path(asked), PACKAGE):
        raise UserError(
            f"--user-dir {Path(asked).absolute()} holds other code than the {PACKAGE.name} already imported from "
            f"{PACKAGE}: name that folder, or install the one you mean with pip install -e."
        )
    return None


def same_code(one: Path, other: Path) -> bool:
    """Whether two folders hold the same Python files with the same contents."""
    if one.resolve() == other.resolve():
        return True
    files = [{path.relative_to(folder) for path in folder.rglob("*.py")} for folder in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])
