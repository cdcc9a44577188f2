"""The probe as one file that any Python from 3.9 on runs: a zip of what needs torch alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "tpprof_probe"
"""What they are called in there: tpprof itself may be installed beside it."""
FILES = (
    "__init__.py",
    "meters/__init__.py",
    "meters/chrome_trace.py",
    "meters/clock.py",
    "meters/flop_counter.py",
    "meters/process_memory.py",
    "probe/__init__.py",
    "probe/caches.py",
    "probe/serve.py",
    "probe/target.py",
    "probe/watched.py",
    "probe/worker.py",
)
OLDEST = (3, 9)
"""Of Pythons."""
PROGRAM = f"""
if sys.version_info < {OLDEST}:
    sys.exit("Python %d.%d is too old: the probe needs 3.9" % sys.version_info[:2])
from {PACKAGE}.probe.serve import main
main()
"""


def write_bundle(path: Path) -> None:
    """Write the probe, uncompressed: it is read once."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name in FILES:
            bundle.write(ROOT / name, f"{PACKAGE}/{name}")
