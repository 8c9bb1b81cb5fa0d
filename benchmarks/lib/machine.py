"""What the benchmarks say of the machine, and how they measure memory."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import torch


def machine(device: str = "cpu") -> str:
    """One line: processor or GPU, threads, versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def peak_mib() -> float:
    """The largest resident set of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def resident_mib() -> float:
    """The resident set of this process now, in MiB (Linux; elsewhere its peak)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_mib()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
