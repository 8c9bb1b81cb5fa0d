"""A trained model as a user brings it: its network, its tensors and its classes, whatever library it is of."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import Normalization, PerBand
from segrefinery.labels import match
from segrefinery.models.build import build_model
from segrefinery.models.foreign.wrapped import Wrapped
from segrefinery.models.networks import ModelSettings
from segrefinery.models.segmenter import Segmenter
from segrefinery.models.states import refuse_quantised

NOT_THE_CLASS = "background"
"""What a model of one class calls all else."""


@dataclass
class StartModel:
    """A trained model as it was found.

    Attributes:
        origin: what the user named.
        network: settings that rebuild the network, without weights.
        state: its tensors under the network's own names.
        num_classes: of ``state``.
        classes: their names in the order of the logits, None where the model does not say. colors: or None.
        pixel_mean, pixel_std: of the images it was trained on, in [0, 1]; None where it does not say.
        notes: what was stripped, left out or guessed; to be said.
        why_nameless: why ``classes`` is None though there are names; in words.
        one_class: it was a model of one class; see ``as_two_classes``.
    """

    origin: str
    network: ModelSettings
    state: dict[str, Tensor]
    num_classes: int
    classes: tuple[str, ...] | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None
    pixel_mean: PerBand | None = None
    pixel_std: PerBand | None = None
    notes: list[str] = field(default_factory=list)
    why_nameless: str = ""
    one_class: bool = False

    def build(self, classes: Sequence[str]) -> tuple[Segmenter, list[str]]:
        """The network with its weights for ``classes``, in their order, and the names of those it has yet to learn. The
        rows of these in its classifiers are new: until they are trained it predicts no such class.

        Raises:
            SegRefineryError: the model does not say its classes, or has none of these.
        """
        rows, names = self.rows(classes), self.named_classes
        if all(row < 0 for row in rows):
            raise SegRefineryError(
                f"{self.origin}: none of its classes ({some(names)}) is among those of the data "
                f"({some(classes)}); rename the data's with merge, or the model's with model.classes"
            )
        model = build_model(self.network, len(classes))
        wanted = model.state_dict()
        given = dict(self.state)
        for name in class_tensors(self.network):
            given[name] = _rows(self.state[name], rows)
        differing = [name for name in wanted if given[name].shape != wanted[name].shape]
        if differing:
            name = differing[0]
            raise SegRefineryError(
                f"{self.origin}: {name} is {tuple(given[name].shape)} and the network wants "
                f"{tuple(wanted[name].shape)} ({len(differing)} tensors differ). Check model.options"
            )
        refuse_quantised(given, wanted, self.origin)
        model.load_state_dict(given)
        if self.normalization is not None:
            model.normalization = self.normalization
        return model, [name for name, row in zip(classes, rows, strict=True) if row < 0]

    def rows(self, classes: Sequence[str]) -> list[int]:
        """The place of each of ``classes`` among the model's, by any spelling or synonym; -1 where it has none."""
        places = [match(name, self.named_classes) for name in classes]
        return [-1 if place is None else place for place in places]

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Its classes.

        Raises:
            SegRefineryError: it does not say them, nor did the user; or it says one twice.
        """
        if self.classes is None:
            why = f" ({self.why_nameless})" if self.why_nameless else ""
            raise SegRefineryError(
                f"{self.origin}: does not say what its {self.num_classes} classes are{why}; name them in the order of "
                "its logits: --set 'model.classes=[road, car, ...]'"
            )
        if twice := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise SegRefineryError(
                f"{self.origin}: two of its classes are called {twice[0]!r}; name all {self.num_classes} in the order "
                "of its logits: --set 'model.classes=[road, car, ...]'"
            )
        return self.classes

    def name_classes(self, names: Sequence[str]) -> None:
        """Takes the user's names of its classes, in the order of its logits; of a model of one class one will do.

        Raises:
            SegRefineryError: more or fewer.
        """
        if self.one_class and len(names) == 1:
            names = (NOT_THE_CLASS, *names)
        if len(names) != self.num_classes:
            raise SegRefineryError(
                f"model.classes: names {len(names)} classes, and {self.origin} has {self.num_classes}; name each, in "
                "the order of its logits"
            )
        self.classes = tuple(names)

    @property
    def normalization(self) -> Normalization | None:
        """Mean and deviation of the images it was trained on; None where it does not say."""
        return Normalization(self.pixel_mean, self.pixel_std) if self.pixel_mean and self.pixel_std else None

    @property
    def fingerprint(self) -> str:
        """Of all that determines what it predicts."""
        digest = hashlib.blake2b(digest_size=12)
        digest.update(f"{self.network.model_dump_json()} {self.classes} {self.normalization}".encode())
        for name, tensor in self.state.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass
class StartModule(StartModel):
    """A module of the user's, wrapped: it keeps its classes and their order, for where their rows lie is not known."""

    module: Segmenter | None = None

    def build(self, classes: Sequence[str]) -> tuple[Segmenter, list[str]]:
        """A copy of the module.

        Raises:
            SegRefineryError: other classes, or another order.
        """
        assert self.module is not None
        if self.rows(classes) != list(range(self.num_classes)):
            raise SegRefineryError(
                f"{self.origin}: a wrapped module keeps its classes ({some(self.named_classes)}), and the data's are "
                f"{some(classes)}; name the module's in the order of its logits with model.classes, and the same ones "
                "with classes"
            )
        return copy.deepcopy(self.module), []


def start_of(module: nn.Module) -> StartModule:
    """A module that the user has in Python, as a start.

    Raises:
        SegRefineryError: it does not speak our words, has one class, or nothing that could learn.
    """
    kind = type(getattr(module, "module", module)).__name__
    if not isinstance(module, Segmenter):
        raise SegRefineryError(
            f"start: {kind} is a plain module; give segrefinery.models.wrap(module, num_classes), or a model's path"
        )
    if module.num_classes == 1:
        raise SegRefineryError(
            f"start: {kind} has one class, whose logit z a sigmoid reads; wrap it as one of two, which puts out "
            "torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise SegRefineryError(f"start: {kind} has no parameter that learns; set requires_grad of some, or of all")
    if isinstance(module, Wrapped):
        module.refuse_unteachable()
    mean, std = module.normalization
    network = ModelSettings(name=f"wrapped:{kind}", bands=len(mean))
    return StartModule(
        network.name, network, module.state_dict(), module.num_classes, None, None, mean, std, module=module
    )  # fmt: skip


def _rows(trained: Tensor, rows: Sequence[int]) -> Tensor:
    """A classifier's tensor with a row a class; where ``rows`` says -1 a new one: no weights, and the lowest bias."""
    new = trained.amin(dim=0) if trained.ndim == 1 else torch.zeros_like(trained[0])
    return torch.stack([new if row < 0 else trained[row] for row in rows])


def class_tensors(network: ModelSettings) -> list[str]:
    """Names of the tensors that have a row a class: those of the classifiers."""
    two, three = (build_model(network, count).state_dict() for count in (2, 3))
    return [name for name in two if two[name].shape != three[name].shape]


def as_two_classes(model: StartModel) -> StartModel:
    """A model of one class, whose logit z a sigmoid reads, as one of two: what is not the class has the logit 0, and
    softmax(0, z) is sigmoid(z)."""
    one = build_model(model.network, 1).state_dict()
    two = build_model(model.network, 2).state_dict()
    state = {
        name: torch.cat([torch.zeros_like(tensor), tensor]) if one[name].shape != two[name].shape else tensor
        for name, tensor in model.state.items()
    }
    classes = model.classes and (NOT_THE_CLASS, *model.classes)
    note = "its one class is read as two, of which the first, with a logit of 0, is what the class is not"
    origin = f"{model.origin}, read as background and its one class"
    notes = [*model.notes, note]
    return replace(model, origin=origin, state=state, num_classes=2, classes=classes, notes=notes, one_class=True)


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
