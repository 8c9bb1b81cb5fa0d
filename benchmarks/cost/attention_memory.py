"""Pixel attention, dense against in strips: peak memory and time, forward and backward. Prints a Markdown table.

    python benchmarks/cost/attention_memory.py                  # CPU; the dense form needs about 5 GiB
    python benchmarks/cost/attention_memory.py --device cuda

The sizes are the paper's: 8,385 positions = a Cityscapes image of 1024 x 512 at stride 8, 14,651 = a GTA5 image of
1280 x 720. Every row is measured in a process of its own; times are the best of several calls, so that a busy machine
disturbs them least. Memory is what the first call adds: on the CPU the peak of the resident set over what
was resident before, on a GPU the peak of what is allocated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from segrefinery.refine.pixel_attention.formulas import pixel_attention

SIZES = {8385: (65, 129), 14651: (91, 161)}
CLASSES = 19
MIB = 2**20


def dense_attention(logits: Tensor, embedding: Tensor) -> Tensor:
    """Equations (4) to (7) as they are written, with the whole matrix in memory."""
    values, rows = logits.flatten(2).mT, embedding.flatten(2).mT
    unit = rows / (rows.norm(dim=2, keepdim=True) + 1e-12)
    weights = (unit @ unit.mT).relu()
    weights = weights / weights.sum(dim=2, keepdim=True)
    return (weights @ values).mT.unflatten(2, logits.shape[-2:])


FORMS = {"dense": dense_attention, "strips": pixel_attention}


class Peak:
    """Bytes added to the peak since it was made."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from now
        self.before = self._resident()

    def __call__(self) -> int:
        now = torch.cuda.max_memory_allocated() if self.device == "cuda" else self._resident()
        return now - self.before

    @staticmethod
    def _resident() -> int:
        status = Path("/proc/self/status")
        if status.exists():
            (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def measure(form: str, positions: int, device: str, repeats: int) -> dict[str, float]:
    """Peaks of the first call, and the best times of ``repeats`` more."""
    rng = torch.Generator().manual_seed(0)
    shape = (1, CLASSES, *SIZES[positions])
    logits, embedding, upstream = (torch.randn(shape, generator=rng).to(device) for _ in range(3))
    for tensor in (logits, embedding):
        tensor.requires_grad_()
    small = logits[..., :8, :8].detach().requires_grad_()
    FORMS[form](small, small).sum().backward()  # starts threads and libraries

    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    peaks, times = {}, []
    for call in range(repeats + 1):
        logits.grad = embedding.grad = None
        peak, start = Peak(device), wait()
        attended = FORMS[form](logits, embedding)
        middle, forward_peak = wait(), peak()
        attended.backward(upstream)
        end = wait()
        if call == 0:
            peaks = {"forward_mib": forward_peak / MIB, "both_mib": peak() / MIB}
        else:
            times.append((middle - start, end - middle))
        del attended
    forward, backward = (min(column) for column in zip(*times, strict=True))
    checksum = sum(
        float(tensor.grad.double().square().sum()) for tensor in (logits, embedding) if tensor.grad is not None
    )
    return {**peaks, "forward_s": forward, "backward_s": backward, "gradient_norm": checksum**0.5}


def in_its_own_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls a row; the best is printed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--one", nargs=2, metavar=("FORM", "POSITIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        form, positions = options.one
        print(json.dumps(measure(form, int(positions), options.device, options.repeats)))
        return

    print(f"{machine(options.device)}; C = {CLASSES}, float32, batch 1, best of {options.repeats}\n")
    print("| positions | form | peak forward | peak forward + backward | forward | backward |")
    print("|---|---|---|---|---|---|")
    for positions in SIZES:
        rows = {}
        for form in FORMS:
            common = ("--device", options.device, "--repeats", str(options.repeats), "--threads", str(options.threads))
            rows[form] = row = in_its_own_process("--one", form, str(positions), *common)
            print(
                f"| {positions:,} | {form} | {row['forward_mib']:,.1f} MiB | {row['both_mib']:,.1f} MiB "
                f"| {row['forward_s']:.3f} s | {row['backward_s']:.3f} s |",
                flush=True,
            )
        share = {key: rows["strips"][key] / rows["dense"][key] for key in rows["dense"]}
        print(
            f"| {positions:,} | strips / dense | {share['forward_mib']:.3f} | {share['both_mib']:.3f} "
            f"| {share['forward_s']:.3f} | {share['backward_s']:.3f} |"
        )
        if abs(share["gradient_norm"] - 1) > 1e-4:
            raise SystemExit(f"the two forms disagree: gradient norms differ by a factor of {share['gradient_norm']}")


if __name__ == "__main__":
    main()
