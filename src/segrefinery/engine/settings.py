"""How a run trains, whatever its stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from segrefinery.core.settings import BUDGET, Settings

OnCollapse = Literal["warn", "rollback", "stop"]


class TrainingSettings(Settings):
    """How a run trains, whatever its stages."""

    precision: Annotated[Literal["32-true", "bf16-mixed"], BUDGET] = "32-true"
    """Computes in float32, or the networks in bfloat16 where that is safe. On a processor it makes only
    some networks faster, and only with ``avx512_bf16`` or AMX; a run says where it is emulated."""
    accumulate: Annotated[int, BUDGET] = Field(default=1, ge=1)
    """Splits a step into so many micro-batches: less memory, and the same gradient of every loss that is a mean over
    all pixels. Losses over chosen pixels (labelled, masked, contrastive, a mixture's) become means of the parts' means;
    batch norm sees less."""
    clip_norm: Annotated[float | None, BUDGET] = Field(default=None, gt=0)
    """Limits the norm of all gradients of a step together, those of discriminators and refiners among them; null for no
    limit."""
    deterministic: Annotated[bool, BUDGET] = True
    """Asks torch for operations that give the same result every time. On a GPU some of them may be slower, and a few
    have no such form and warn."""
    checkpoint_every: Annotated[int, BUDGET] = Field(default=500, ge=1)
    """Writes a checkpoint after so many steps."""
    keep: Annotated[int, BUDGET] = Field(default=2, ge=1)
    """Keeps so many checkpoints of the stage in training."""
    log_every: Annotated[int, BUDGET] = Field(default=20, ge=1)
    """Tracks losses and rates after so many steps."""
    look_every: Annotated[int, BUDGET] = Field(default=0, ge=0)
    """Looks at the model in adaptation after so many steps: evaluation, where there is an evaluation set, and
    label-free scores; 0 = only at the end of a stage."""
    on_collapse: OnCollapse = "warn"
    """Acts when the labels of self-training look like a collapse: goes on and says so, ends the stage at the last good
    checkpoint (``rollback``), or ends the run (``stop``). That checkpoint is kept in any case."""
    choose: Literal["last", "score"] = "last"
    """Ships the model of the last stage, as publications do (``last``), or chooses among the models at the ends of the
    stages (``score``). Then the last one is shipped if labels of the target taught it (``--labels``) and the verdict
    does not call it worse. Else it is the one that the label-free score ranks highest among those called better than
    source-only; without any, source-only. A candidate too is the model whose batch-norm statistics a stage has set,
    before it trains (``STAGE-prepared``)."""
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Keeps this share of the labelled target images (``--labels``) out of training. They score the run's models
    instead: an estimate for the target, with its interval. By default all teach, and nothing is estimated."""
    cross_fit: int = Field(default=0, ge=0)
    """Divides the labelled target images (``--labels``) into so many parts, and for each trains once more without it;
    the part then scores that model. All labels teach the model that is shipped, and the scores of all parts together
    estimate it, with an interval. The stages that labels teach run so many times more; 0 = no estimate."""
    compile: Annotated[str | None, BUDGET] = None
    """Compiles the networks in training by this backend of torch.compile (``inductor``); null for none. Its first steps
    take minutes; what the others gain depends on the device."""

    @model_validator(mode="after")
    def _one_way_to_score(self) -> TrainingSettings:
        if self.cross_fit == 1:
            raise ValueError("cross_fit: one part leaves no labels to teach; set 2 or more, or 0")
        if self.cross_fit and self.holdout:
            raise ValueError("cross_fit: holdout takes images from training for the same purpose; set one of both")
        return self

    @field_validator("compile")
    @classmethod
    def _known_backend(cls, name: str | None) -> str | None:
        if name is not None:
            from segrefinery.engine.compilation import check_backend  # torch knows its backends

            check_backend(name)
        return name
