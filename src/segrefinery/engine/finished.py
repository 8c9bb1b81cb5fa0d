"""What is finished stays finished: the results of stages, kept, found again, and shared between runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.checkpoints import FORMAT, load_safely, restore_module, save_state
from segrefinery.engine.environment import code_digest
from segrefinery.engine.folders import RECIPE
from segrefinery.engine.keys import digest
from segrefinery.stages.base import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class FinishedStages:
    """Results by stage name, ``FOLDER/STAGE/result.pt``; one process writes them and all go on from them.

    Attributes:
        folder: of the run's stages.
        reuse: a folder where results are kept by all that determines them, this code included, and taken from instead
            of trained again; or the folder of another run, which is only taken from.
    """

    folder: Path
    fabric: Fabric
    reuse: Path | None = None

    def path(self, name: str) -> Path:
        return self.folder / name / "result.pt"

    def save(self, name: str, key: str, stage: Stage) -> None:
        """Keep the result of a stage. All processes go on from what is kept."""
        if self._writes:
            handed_on = {part: module.state_dict() for part, module in stage.handed_on().items()}
            state = {"format": FORMAT, "key": key, "code": code_digest(), "model": stage.model.state_dict()}
            state["handed_on"] = handed_on
            save_state(state, self.path(name))
            if self.reuse is not None and not is_run(self.reuse):
                save_state(state, self._shared(key))
        self.fabric.barrier()
        if not self._writes:
            self._read(name, key, stage)

    def load(self, name: str, key: str, stage: Stage) -> bool:
        """Load the result of a stage of this run; False if it is not finished.

        Raises:
            SegRefineryError: the result is another's: of other data, classes or settings.
        """
        if not self.fabric.broadcast(self.path(name).exists()):
            return False
        self._read(name, key, stage)
        return True

    def _read(self, name: str, key: str, stage: Stage) -> None:
        path = self.path(name)
        state = load_safely(path)
        if state.get("key") != key:
            raise SegRefineryError(
                f"{path}: was trained on other data, classes or settings than this run has now; start a new run with "
                f"-o and --reuse {self.folder.parent}, which takes over the stages that have not changed"
            )
        restore_module(stage.model, state["model"], path)
        for part, module in stage.handed_on().items():
            restore_module(module, state["handed_on"][part], path)
        stage.to(self.fabric.device)

    def take(self, name: str, key: str) -> Path | None:
        """Take the result of the very same stage from the folder to reuse, if only that has it -> whence."""
        if not self._writes or self.reuse is None or self.path(name).exists():
            return None
        kept = self._of_run(key) if is_run(self.reuse) else self._kept(self._shared(key))
        if kept is None:
            return None
        path, state = kept
        save_state(state, self.path(name))
        return path

    @property
    def _writes(self) -> bool:
        return self.fabric.global_rank == 0

    def _shared(self, key: str) -> Path:
        assert self.reuse is not None
        return self.reuse / f"{digest(code_digest(), key)}.pt"

    def _kept(self, path: Path) -> tuple[Path, dict[str, Any]] | None:
        return (path, load_safely(path)) if path.exists() else None

    def _of_run(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """The result with this key, and of this code, in the other run."""
        assert self.reuse is not None
        for path in sorted(self.reuse.glob("stages/*/result.pt")):
            state = load_safely(path)
            if (state.get("key"), state.get("code")) == (key, code_digest()):
                return path, state
        return None


def is_run(folder: Path) -> bool:
    return (folder / RECIPE).exists()
