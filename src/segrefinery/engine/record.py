"""What a run folder says of itself: what determines the run, on what it was trained, and who is writing there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import cannot_write, read_json, sweep, write_json, write_text
from segrefinery.engine.events import RunEvents
from segrefinery.engine.folders import RECIPE
from segrefinery.engine.processes import rank

if TYPE_CHECKING:
    from segrefinery.engine.feed import RunData

LOCK = ".lock"
ENVIRONMENT, DATA, LABELS = "environment.json", "data.json", "labels.json"
EXACT = {"torch_threads": "threads", "processes": "processes", "device": "device"}
"""What of the environment changes the last digits of a result."""


HELD: list[IO[str]] = []
"""The locks of this process."""


def _let_go() -> None:
    """A forked process (a loader's worker, say) holds no lock: it may outlive this one by seconds."""
    while HELD:
        HELD.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def the_only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder while the block runs. The lock is the operating system's: that of a dead process blocks nobody,
    and where there is none (Windows) nothing is held. Of the processes of a run the first one holds it.

    Raises:
        SegRefineryError: another process holds it, or the folder cannot be written.
    """
    if rank() != 0:
        yield
        return
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise cannot_write(folder / LOCK, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another one"
            raise SegRefineryError(
                f"{folder}: process {holder} is writing this run; wait for its end, or name another folder with -o"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        HELD.append(file)
        try:
            yield
        finally:
            HELD[:] = [other for other in HELD if other is not file]


def keep_record(
    folder: Path, recipe: str, sets: RunData, start: str | None, device: str, processes: int, events: RunEvents
) -> None:
    """Write the recipe, the data's fingerprints and the environment of a new run; compare those of a resumed one.

    The first record stays. Another number of threads or processes, or another device, changes the last digits of what
    is trained from now on, which is said.

    Args:
        start: fingerprint of the trained model that the run starts from.

    Raises:
        SegRefineryError: the data, the classes or the start model are not those the run began with.
    """
    from segrefinery.engine.environment import environment

    sweep(folder)
    refuse_other_data(folder, described_sets(sets) | ({"start": start} if start else {}))
    write_text(folder / RECIPE, recipe)
    if sets.labels is not None:
        write_json(folder / LABELS, {"taught": names_of(sets.labels), "held_out": names_of(sets.held_out or ())})
    now = environment(device, processes)
    path = folder / ENVIRONMENT
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path, "remove it to go on")
    for key, word in EXACT.items():
        if before.get(key) != now[key]:
            events.said(
                f"warning: the run began with {word} {before.get(key)} and goes on with {now[key]}; its weights will "
                "not be exactly those of an undisturbed run"
            )


def names_of(images: Any) -> list[str]:
    """The names of a data set's images, in order."""
    return [images.name(index) for index in range(len(images))]


def refuse_other_data(folder: Path, now: dict[str, Any]) -> None:
    """Keep what a run is made of, or compare it with what it began with if it is resumed."""
    path = folder / DATA
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path, f"start a new run with -o; --reuse {folder} takes over what it finished")
    changed = [key for key, value in now.items() if before.get(key) != value]
    if changed:
        words = {
            "classes": "the classes or their order",
            "start": "the model it starts from",
            "target": "the target images",
        }
        what = ", ".join(words.get(key, f"the {key} images, or their masks and classes") for key in changed)
        raise SegRefineryError(
            f"{folder}: changed since the run began: {what}; put them back, or start a new run "
            f"with -o, where --reuse {folder} takes over the stages that they do not concern"
        )


def described_sets(sets: RunData) -> dict[str, Any]:
    """What each data set is made of, and the classes in their order."""
    from segrefinery.data.scan import fingerprint

    roles = ("source", "target", "evaluation", "oracle", "labels", "held_out")
    parts = {role: getattr(sets, role) for role in roles}
    prints = {role: None if part is None else fingerprint(part) for role, part in parts.items()}
    return prints | {"classes": list(sets.space.classes)}
