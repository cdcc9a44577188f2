"""Trains `seer` from random weights: `python -m tpprof.profiler.seer.training --folder DIR`.

One schedule and one seed. What is stopped goes on from its last checkpoint when it is started
again; it needs one core and a C++ compiler (torch.compile).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .trainer import Trainer, compile_layers


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains seer from random weights.")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw ahead")
    parser.add_argument("--start", type=int, default=0, help="stage to start at, from --weights")
    parser.add_argument("--weights", type=Path, help="folder that earlier stages ended in")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
        compile_layers()
    torch.set_float32_matmul_precision("high")
    Trainer(
        given.folder,
        given.seed,
        device=given.device,
        workers=given.workers,
        start=given.start,
        weights=given.weights,
    ).run()


if __name__ == "__main__":
    main()
