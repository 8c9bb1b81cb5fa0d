"""What a run ran on, so that its numbers can be reproduced."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from segrefinery.core.processor import has_bf16

PACKAGES = ("segrefinery", "torch", "torchvision", "timm", "lightning-fabric", "pydantic", "numpy", "safetensors")


def environment(device: str = "cpu", processes: int = 1) -> dict[str, Any]:
    """Versions, processor, accelerator and what was used of it; no user or host names."""
    facts = {}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "packages": facts,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": processor(),
        "bfloat16": has_bf16(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "device": device,
        "processes": processes,
    }


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within, torch chooses operations that give the same result every time, and warns of those that have none; then
    it is as the caller had it."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not among them
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Every new tensor would be filled with NaN first: a tenth of a step, and none of ours is read before written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # pyright: ignore[reportAttributeAccessIssue]


@cache
def code_digest() -> str:
    """A digest of this package's sources and of torch's version, without which the same settings may train another
    network."""
    digest = hashlib.blake2b(torch.__version__.encode(), digest_size=12)
    package = Path(__file__).resolve().parents[1]
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
