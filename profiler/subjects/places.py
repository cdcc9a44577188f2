"""Where the code of a callable lies, as a record says it: without the user's home folder, and so
that it is found again from the same folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePath


def portable(path: str) -> str:
    """A path from the folder that the user is in; `~/...` where the way there leaves it for the
    home folder; whole where it lies elsewhere altogether. "" stays."""
    if not path:
        return ""
    whole, here, home = Path(os.path.abspath(path)), Path.cwd(), Path.home()
    shared = Path(os.path.commonpath([whole, here]))
    if home in whole.parents and home not in (shared, *shared.parents):
        return f"~/{whole.relative_to(home).as_posix()}"
    if shared == Path(shared.anchor):
        return str(whole)
    return PurePath(os.path.relpath(whole, here)).as_posix()
