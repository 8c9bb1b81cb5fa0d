"""How a process uses its machine: how many cores, how its threads wait, and what becomes of freed memory.

Read before torch is imported, which counts once."""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping
from math import ceil
from pathlib import Path


def usable_cores(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: those it is bound to, or fewer where a container's quota allows fewer; at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(proc, groups)
    return bound if quota is None else max(1, min(bound, ceil(quota)))


def _quota(proc: Path, groups: Path) -> float | None:
    """The smallest quota of the control groups around this process, in cores; None without one (Linux, v1 and v2)."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = groups if not controllers else groups / "cpu" if "cpu" in controllers.split(",") else None
        if root is not None:
            inner = root / path.lstrip("/")
            limits += [_own_quota(folder) for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return min((quota for quota in limits if quota is not None), default=None)


def _own_quota(folder: Path) -> float | None:
    """What one control group allows itself, in cores."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{part}_us").read_text(encoding="utf-8") for part in ("quota", "period")
            )
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def free_cores(proc: Path = Path("/proc")) -> int:
    """Cores of the machine that nobody else works on at this moment (Linux; elsewhere all count as free)."""
    cores = os.cpu_count() or 1
    try:
        working = int((proc / "loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return cores
    return cores - (working - 1)  # this process is one of them


def has_bf16(proc: Path = Path("/proc")) -> bool | None:
    """Whether the processor multiplies bfloat16 itself (x86: AVX512-BF16 or AMX; ARM: bf16); None where that is not
    said (other systems than Linux)."""
    try:
        lines = (proc / "cpuinfo").read_text(encoding="utf-8").lower().splitlines()
    except (OSError, ValueError):
        return None
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "features"))]
    return bool(flags[0] & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None


def share_fairly(environment: MutableMapping[str, str] = os.environ, proc: Path = Path("/proc")) -> None:
    """Let torch's threads be as many as there are cores for them; and where others work on these cores as the command
    starts, let idle threads sleep at once. By default they spin for a while, which is faster on an idle machine, and
    takes the core from whoever has work on a busy one (``benchmarks/cost/waiting.py``). What the user has set stands.
    """
    cores = usable_cores(proc)
    environment.setdefault("OMP_NUM_THREADS", str(cores))
    if cores > free_cores(proc) and "GOMP_SPINCOUNT" not in environment:
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones (GNU C library; elsewhere nothing happens).

    By default every large tensor is fresh pages from the system, and clearing them is a fifth of a training step of a
    small network on a processor, and most of what IR2F's function costs on a large one.
    """
    trim_threshold, mmap_max = -1, -4  # names of malloc.h
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    set_option(trim_threshold, -1)  # never give back the heap's end
    set_option(mmap_max, 0)  # and put tensors of any size on the heap
