"""The gates of the benchmarks: their formulas by hand-made numbers, and all of them on a tiny task."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from runs import DAY, NARROW, NIGHT, TEST, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.batch import LabeledBatch
from segrefinery.labels import LabelSpace
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.models.teacher import Teacher
from segrefinery.refine.entropy_mixture.refiner import EntropyMixtureSettings

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SPACE = LabelSpace.of("two", ["road", "sky"])


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from lib import gates

    return gates


class Said(Segmenter):
    """Reads its logits off the image: channels 0 and 1 are those of the first classifier, 2 says how the second one
    leans to class 1."""

    num_classes, feature_channels, level_channels, learner_channels = 2, 3, (3,), (3,)

    def __init__(self, second: bool = True) -> None:
        super().__init__()
        self.second = second

    def forward(self, image: torch.Tensor) -> Prediction:
        second = Learner(torch.stack([-image[:, 2], image[:, 2]], dim=1), image)
        return Prediction.of([Learner(image[:, :2], image), *([second] if self.second else [])])


def ground(lib: ModuleType, image: torch.Tensor, label: torch.Tensor, second: bool = True):
    batch = [LabeledBatch(image, label, torch.arange(len(image)))]
    return lib.Ground(Teacher(Said(second)), SPACE, batch, batch, batch, iter, iter)


def test_a_perfect_choice_is_right_where_one_classifier_is(lib):
    # First: 0 0 1 1; second: 0 1 0 1, half as sure; the last label is ignored.
    image = torch.tensor([[[[2.0, 2, -2, -2]], [[-2.0, -2, 2, 2]], [[-1.0, 1, -1, 1]]]])
    label = torch.tensor([[[0, 1, 1, 255]]])
    scores, differ = lib.two_classifiers(ground(lib, image, label), ground(lib, image, label).test)
    assert differ == pytest.approx(2 / 3)
    accuracy = {name: one.pixel_accuracy for name, one in scores.items()}
    assert accuracy == pytest.approx({"first": 2 / 3, "second": 2 / 3, "mean of both": 2 / 3, "perfect choice": 1})


def test_one_classifier_has_no_choice(lib):
    one = ground(lib, torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), second=False)
    with pytest.raises(SegRefineryError, match="one classifier"):
        lib.two_classifiers(one, one.test)


def test_thresholds_keep_as_many_as_the_mixtures(lib):
    """An image that is certain throughout and right, one that is uncertain throughout and wrong: the images' mixtures
    keep the better part of both, one threshold knows which image to trust."""
    rng = torch.Generator().manual_seed(0)
    sure = 0.8 + torch.rand(1, 1, 20, 20, generator=rng)
    unsure = 0.1 + 0.5 * torch.rand(1, 1, 20, 20, generator=rng)
    lean = torch.cat([sure, unsure])
    image = torch.cat([lean, -lean, lean], dim=1)
    label = torch.stack([torch.zeros(20, 20), torch.ones(20, 20)]).long()
    found = lib.equal_coverage(ground(lib, image, label), EntropyMixtureSettings(min_pixels=20))
    assert found["all"] == (1, 0.5)
    coverage, precision = found["mixtures of the images"]
    assert 0 < coverage < 1
    assert found["one threshold, as many"][0] == found["a threshold a class, as many of each"][0] == coverage
    assert precision < found["one threshold, as many"][1]


def test_some_images_are_spread_over_the_data_set(lib):
    from lib.spread import Spread

    some = Spread(Numbers(), 3)
    assert [some.image(index) for index in range(len(some))] == [0, 2, 4]
    assert some.name(2) == "4"
    assert some.space is SPACE
    assert len(Spread(Numbers(), 100)) == 7


class Numbers:
    """Seven images that are their own number."""

    space = SPACE

    def __len__(self) -> int:
        return 7

    def image(self, index: int) -> int:
        return index

    def name(self, index: int) -> str:
        return str(index)


def test_the_uncertain_classes_are_seen_more_often(lib):
    """Sky is what the target is unsure of, and one source image of four has it."""
    image = torch.zeros(1, 3, 4, 4)
    image[:, 1, :, :2], image[:, 0, :, 2:] = 0.2, 5.0
    one = ground(lib, image, torch.zeros(1, 4, 4, dtype=torch.long))
    counts = torch.tensor([[100, 20], [120, 0], [120, 0], [120, 0]])
    worst, gains = lib.guided_sampling(one, counts, {"mid": 0.3}, uncertain=1)
    assert worst == [1]
    assert gains["guided, mid"][1] > gains["balanced, mid"][1] > 1
    assert gains["guided, mid"][0] == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("gates") / "run", "source_only")


def test_all_gates_of_a_tiny_task(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "studies"))
    import gates

    task = gates.Task(DAY, DAY.replace("count=6", "count=2") + "@test", NIGHT, TEST)
    found = gates.Gates(task, run, "small", images=2, steps=2, overrides=())
    monkeypatch.setattr(found, "method", narrowed(found.method))
    head, *parts, rooms = gates.page("tiny", found)
    assert "small, source-only" in head
    assert len(parts) == len(gates.PARTS)
    for title, part in zip(gates.PARTS, parts, strict=True):
        assert part.startswith(f"## {title}\n\n| ")
        assert len(part.splitlines()) >= 5
    assert "perfect choice" in parts[1]
    assert "| target test, taught by target labels | refined |" in parts[5]
    assert all(f"| {title} | " in rooms for title in gates.PARTS)


def narrowed(method):
    """The methods' settings, made small."""

    def small(recipe: str, refiner: str):
        stage, settings, steps = method(recipe, refiner)
        return stage, settings.model_copy(update=NARROW.get(refiner, {})), steps

    return small
