"""What is wrong with one file of a data set."""

from __future__ import annotations

from pathlib import Path

from segrefinery.core.errors import SegRefineryError


class DataError(SegRefineryError):
    """Something wrong with one file: which file, which part of it, what, and the remedy."""

    def __init__(self, file: Path | str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{file}: {field}: {problem}; {remedy}.")
        self.file, self.field, self.problem, self.remedy = str(file), field, problem, remedy

    def __reduce__(self):
        # So that it survives the way from a loading process to ours.
        return DataError, (self.file, self.field, self.problem, self.remedy)
