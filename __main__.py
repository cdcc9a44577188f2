"""`python -m tpprof`: the command."""

from __future__ import annotations

from .profiler.cli import main

if __name__ == "__main__":
    main()
