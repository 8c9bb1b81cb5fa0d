"""Commands of segrefinery in forked processes, which start in no time, and what became of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from segrefinery import cli
from segrefinery.verbs import adapt, audit, compare, evaluate, predict, pseudo_label

LOADED = (adapt, audit, compare, evaluate, predict, pseudo_label)
"""What every command would load anew: here before any of them begins."""

LIMIT = 20.0
"""Seconds a command may take, and bytes it may hold."""
MEMORY = 2 << 30
TINY = (
    "model.name=small", "model.options={width: 16, blocks: 1}", "data.short_side=32", "data.crop=[32, 48]",
    "data.batch=2", "target_data.short_side=32", "target_data.crop=[32, 48]", "training.checkpoint_every=2",
    "stages.source.steps=4", "stages.adapt.steps=4",
)  # fmt: skip
ADAPT = [
    "adapt", "--scale=small", "--source=scenes:day,count=4,size=32x64", "--target=scenes:night,count=4,size=32x64",
    "--eval=scenes:night,count=2,size=32x64@test", *(f"--set={override}" for override in TINY),
]  # fmt: skip


@dataclass
class Outcome:
    """What became of a command: its exit code (negative for a signal), seconds, bytes, and the last it said.

    Seconds are those in which it ran or slept. What it waited for a core is not its own: on a busy machine, at low
    priority, that can be minutes.
    """

    code: int
    seconds: float
    memory: int
    said: str

    @property
    def fault(self) -> str | None:
        """What must not be; None if all is as promised: done, or one line and code 2."""
        if self.seconds > LIMIT:
            return "hang"
        if self.code < 0:
            return "signal"
        if "Traceback" in self.said or self.code not in (0, 2):
            return "traceback"
        return "memory" if self.memory > MEMORY else None


@dataclass
class Child:
    """A command that runs: its process, and the pipe with what it says, for a full disk must not hold that up."""

    number: int
    pipe: int


def start(arguments: Sequence[object], before: Callable[[], None] = lambda: None) -> Child:
    """Begin a command in a process of its own."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    number = os.fork()
    if number:
        os.close(writer)
        os.set_blocking(reader, False)
        return Child(number, reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    code = 1
    try:
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        cli.console.file = sys.stdout
        sys.argv = ["segrefinery", *map(str, arguments)]
        torch.set_num_threads(1)
        before()
        cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def end(child: Child, limit: float = LIMIT) -> Outcome:
    """Wait for a command; one that takes too long is killed."""
    began, said, waited = time.monotonic(), b"", 0.0
    while True:
        waited = max(waited, waited_for_core(child.number))
        found, status, used = os.wait4(child.number, os.WNOHANG)
        with suppress(BlockingIOError):
            while part := os.read(child.pipe, 1 << 16):
                said += part
        seconds = max(0.0, time.monotonic() - began - waited)
        if found:
            os.close(child.pipe)
            code, text = os.waitstatus_to_exitcode(status), said[-2000:].decode(errors="replace")
            return Outcome(code, seconds, used.ru_maxrss * 1024, text)
        if seconds > limit:
            os.kill(child.number, signal.SIGKILL)
        time.sleep(0.005)


def waited_for_core(process: int) -> float:
    """Seconds that a process was ready to run and did not; 0 where the system does not say, or it has ended."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def run(arguments: Sequence[object], before: Callable[[], None] = lambda: None, limit: float = LIMIT) -> Outcome:
    return end(start(arguments, before), limit)


def made(folder: Path) -> Path:
    """A finished tiny run in ``folder``, trained unless it is there."""
    if not (folder / "report.html").exists():
        outcome = run([*ADAPT, f"--output={folder}", "--resume"], limit=600)
        if outcome.code:
            raise SystemExit(f"the run to start from failed:\n{outcome.said}")
    return folder


def largest_file(size: int) -> Callable[[], None]:
    """No file may grow beyond ``size`` bytes, as where the disk is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def remaining(record: Path, end: int, first: int = 0) -> Iterator[int]:
    """The numbers from ``first`` up to ``end`` that have no line in the record yet."""
    done = {line["number"] for line in lines(record)}
    yield from (number for number in range(first, end) if number not in done)


def lines(record: Path) -> list[dict]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def keep(record: Path, number: int, kind: str, outcome: Outcome, fault: str | None = None) -> None:
    fault = outcome.fault or fault
    line = {"number": number, "kind": kind, "fault": fault, **asdict(outcome)}
    if fault is None:
        del line["said"]
    with open(record, "a") as file:
        file.write(json.dumps(line) + "\n")


def table(record: Path) -> bool:
    """Print a line a kind as Markdown -> whether there was no fault."""
    found = lines(record)
    print("| what | tried | done | one line, code 2 | faults | longest, s | most memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    for kind in sorted({line["kind"] for line in found}):
        own = [line for line in found if line["kind"] == kind]
        codes = [sum(line["code"] == code and not line["fault"] for line in own) for code in (0, 2)]
        faults = [line["fault"] for line in own if line["fault"]]
        said = ", ".join(f"{faults.count(fault)} {fault}" for fault in sorted(set(faults))) or "0"
        longest, most = max(line["seconds"] for line in own), max(line["memory"] for line in own)
        print(f"| {kind} | {len(own)} | {codes[0]} | {codes[1]} | {said} | {longest:.1f} | {most >> 20} |")
    return not any(line["fault"] for line in found)
