"""What is told of a long command, on a terminal and in a log."""

import io
import re

from rich.console import Console

from segrefinery.core import progress
from segrefinery.core.progress import training_progress

LOSSES = {f"loss_number_{number}": number / 10 for number in range(8)}


def told(monkeypatch, terminal: bool, seconds: float = 1.0) -> str:
    """What four steps and a pass over images print, ``seconds`` apart."""
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) * seconds)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, highlight=False)
    with training_progress(console) as show:
        for image in (1, 2):
            show("adapt: target images", image, 2, {})
        for step in range(1, 5):
            show("adapt", step, 4, LOSSES)
    return out.getvalue()


def test_a_log_names_the_losses_at_the_end_of_a_stage(monkeypatch):
    lines = told(monkeypatch, terminal=False).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("adapt 4/4  loss_number_0 0.000")
    assert all(f"{name} {value:.3f}" in lines[0] for name, value in LOSSES.items())
    assert lines[0].endswith("1 s a step")


def test_a_log_has_a_line_a_minute(monkeypatch):
    lines = told(monkeypatch, terminal=False, seconds=60.0).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "adapt: target images 1/2", "adapt: target images 2/2", "adapt 1/4", "adapt 2/4", "adapt 3/4", "adapt 4/4",
    ]  # fmt: skip
    assert lines[3].endswith("0:02:00 left")


def test_the_bar_has_room_whatever_the_losses(monkeypatch):
    """At 80 columns, with eight losses."""
    bars = [part for part in re.split(r"[\r\n]", told(monkeypatch, terminal=True)) if "━" in part]
    assert "4/4" in bars[-1]
