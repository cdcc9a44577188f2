"""Trains projector and low-rank changes of smol-dino, for so many seconds, on a GPU.

    python -m tpprof.profiler.smol_dino.training --weights PART1 PART2 PART3 --bank bank.npz \\
        --output DIR --seconds 240

It needs torch, transformers, tokenizers and NumPy alone; `packed` and `bank` make what it reads.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ..build import assembled
from . import bank
from .packed import read
from .trainer import ChangesTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains projector and changes of smol-dino.")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="packed parts")
    parser.add_argument("--bank", type=Path, required=True, help="cut-outs and photographs")
    parser.add_argument("--output", type=Path, required=True, help="folder of what is made")
    parser.add_argument("--seconds", type=float, default=240, help="of training")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pictures", type=int, default=32, help="of a step")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", type=int, default=400, help="pictures of the test")
    given = parser.parse_args()
    begun = time.monotonic()
    given.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns in each worker
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)  # flash and the memory-efficient kernel do all
    language, tower, text = read(given.weights)
    module = assembled(language, tower, seed=given.seed)
    banks = bank.load(given.bank, "train"), bank.load(given.bank, "test")
    print(f"loaded in {time.monotonic() - begun:.1f} s", flush=True)
    ChangesTrainer(
        module,
        Tokenizer.from_str(text),
        banks,
        given.output,
        seconds=given.seconds,
        device=torch.device(given.device),
        pictures=given.pictures,
        workers=given.workers,
        seed=given.seed,
        test=given.test,
    ).run()


if __name__ == "__main__":
    main()
