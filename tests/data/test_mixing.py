import pytest
import torch

from segrefinery.core.randomness import generator
from segrefinery.data.mixing import classmix, cutmix, draw_mix_classes, mix_labels


def pair(batch=2, size=(4, 6)):
    image_a, image_b = torch.zeros(batch, 3, *size), torch.ones(batch, 3, *size)
    label_a = torch.arange(size[1]).expand(batch, *size).clone()
    return image_a, label_a, image_b, torch.full((batch, *size), 9)


def generators(count, seed=0):
    return [generator(seed, place) for place in range(count)]


def test_classmix_pastes_exactly_the_chosen_classes_of_each_image():
    image, label, mask = classmix(*pair(), [torch.tensor([1, 4]), torch.tensor([0])])
    assert mask[0].all(dim=0).tolist() == [False, True, False, False, True, False]
    assert mask[1].any(dim=0).tolist() == [True, False, False, False, False, False]
    assert label[0, 0].tolist() == [9, 1, 9, 9, 4, 9]
    assert torch.equal(image[:, 0], (~mask).float())


def test_classmix_of_no_class_shows_b_alone():
    image_a, label_a, image_b, label_b = pair()
    none = torch.tensor([], dtype=torch.int64)
    image, label, mask = classmix(image_a, label_a, image_b, label_b, [none, none])
    assert not mask.any()
    assert torch.equal(image, image_b)
    assert torch.equal(label, label_b)


def test_classmix_names_the_argument_that_does_not_fit():
    image_a, label_a, image_b, label_b = pair()
    with pytest.raises(ValueError, match="label_b"):
        classmix(image_a, label_a, image_b, label_b[:, :-1], [torch.tensor([1])] * 2)
    with pytest.raises(ValueError, match="image_a and image_b"):
        classmix(image_a, label_a, image_b[:1], label_b, [torch.tensor([1])] * 2)
    with pytest.raises(ValueError, match="classes must hold one"):
        classmix(image_a, label_a, image_b, label_b, [torch.tensor([1])])


@pytest.mark.parametrize(("present", "half"), [(1, 1), (2, 1), (3, 2), (6, 3), (7, 4)])
def test_half_of_the_classes_rounded_up(present, half):
    label = torch.arange(present).repeat(2, 3, 1) + 10
    for drawn in draw_mix_classes(label, generators(2)):
        assert len(drawn) == half == len(drawn.unique())
        assert set(drawn.tolist()) <= set(range(10, 10 + present))


def test_paper_draws_from_the_image_and_official_from_the_batch_with_the_ignored():
    label = torch.tensor([[[0, 0, 255]], [[1, 2, 255]]])
    seen = {"paper": set(), "official": set()}
    for preset, found in seen.items():
        for seed in range(40):
            drawn = draw_mix_classes(label, generators(2, seed), preset)
            assert [len(ids) for ids in drawn] == ([1, 1] if preset == "paper" else [2, 2])
            found.update(drawn[0].tolist())
    assert seen == {"paper": {0}, "official": {0, 1, 2, 255}}


def test_an_image_without_labels_gives_no_class():
    (drawn,) = draw_mix_classes(torch.full((1, 2, 2), 255), generators(1))
    assert drawn.shape == (0,)


def test_cutmix_pastes_one_rectangle_of_half_the_area():
    image_a, label_a, image_b, label_b = pair(40, (64, 96))
    image, _, mask = cutmix(image_a, label_a, image_b, label_b, generators(40))
    heights, widths = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    assert torch.equal(mask.sum(dim=(1, 2)), heights * widths)
    assert (heights * widths / (64 * 96)).allclose(torch.tensor(0.5), atol=0.01)
    assert int(heights.min()) >= 32
    assert len(heights.unique()) > 10
    assert torch.equal(image[:, 0], (~mask).float())


@pytest.mark.parametrize(("area", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_cutmix_of_nothing_and_of_everything(area, share):
    assert cutmix(*pair(), generators(2), area=area)[2].float().mean() == share


def test_mix_labels_takes_maps_with_and_without_channels():
    mask = torch.tensor([[[True, False]]])
    assert mix_labels(mask, torch.ones(1, 1, 2), torch.zeros(1, 1, 2)).tolist() == [[[1, 0]]]
    assert mix_labels(mask, torch.ones(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)).tolist() == [[[[1, 0]], [[1, 0]]]]
