"""What determines a stage's result, as a key: whoever has the same key has the same result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from segrefinery.data.scan import fingerprint
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.feed import RunData
from segrefinery.engine.settings import TrainingSettings
from segrefinery.models import ModelSettings
from segrefinery.stages.settings import StageSettings


@dataclass(kw_only=True)
class Setup:
    """What a run trains with, whatever its stages are."""

    model: ModelSettings
    data: DataSettings
    target_data: DataSettings
    training: TrainingSettings
    seed: int
    sets: RunData


@dataclass(kw_only=True)
class StageKeys(Setup):
    """Keys of the stages of a run, each made of the settings, the data and the stages before it."""

    model_brought: str | None = None
    """Fingerprint of the trained model that the run starts from."""

    def of(self, before: str, name: str, settings: StageSettings, handed_on: Collection[str]) -> str:
        """The key of a stage.

        Supervised training of a new network depends on no other stage and on no target image, so runs share it whatever
        else they do.

        Args:
            before: what the stages before it determined; ``start`` for the first.
            handed_on: names of the modules that earlier stages left.
        """
        teaching = self.sets.labels_for(settings)
        # A run without labels keeps the keys that runs had before there were any.
        described = settings.model_dump(mode="json", exclude={"labelled"} if teaching is None else None)
        if teaching is not None:
            described["labels"] = fingerprint(teaching)
        if settings.translated_folder is not None:
            described["translated"] = fingerprint(self.sets.translated[settings.translated_folder])
        if before == self.start:
            described["start"] = "fresh"
        if settings.takes_target or described["start"] != "fresh":
            return digest(before, name, described)
        labels = self.sets.oracle if settings.reads_target_labels else self.sets.source
        inherits = bool(set(settings.chain) & set(handed_on))
        return digest(before if inherits else self.determinants(labels), name, described)

    @cached_property
    def start(self) -> str:
        """All that determines a run before its first stage."""
        return self.determinants(self.sets.source, self.sets.target, self.sets.oracle)

    def determinants(self, *sets: Any) -> str:
        """All that determines how a network is trained on these data sets, but for stage's settings and code."""
        options = [part.model_dump(mode="json") for part in (self.model, self.data, self.target_data)]
        options.append(self.training.model_dump(include={"precision", "accumulate", "clip_norm", "compile"}))
        if self.training.on_collapse == "rollback":  # the only action that changes a finished stage
            options.append({"on_collapse": "rollback", "log_every": self.training.log_every})
        if self.model_brought is not None:
            options.append({"start": self.model_brought})
        data = [fingerprint(part) for part in sets if part is not None]
        return digest(self.seed, data, options, self.sets.space.classes)


def digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()
