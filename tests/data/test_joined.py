"""Several data sets as one: images, names, classes, and the proportions they are drawn in."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from data.pictures import index_png, picture
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import Chosen, Remapped, UnlabeledView, open_dataset, parts_of
from segrefinery.data.joined import parts_named
from segrefinery.data.sampling import Draw, ProportionalSampler, UniformSampler, sampler_of
from segrefinery.data.scan import fingerprint
from segrefinery.data.settings import joined_reference
from segrefinery.labels import LabelSpace


def described(root, classes, names=("a", "b"), value=1):
    """A folder data set whose masks hold ``value`` alone."""
    import numpy as np

    for place, name in enumerate(names):
        picture(root / "images" / f"{name}.png", (8, 12), 20 * value + place)
        index_png(root / "masks" / f"{name}.png", np.full((8, 12), value, np.uint8))
    text = f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\nclasses: [{', '.join(classes)}]\n"
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return f"folder:{root}"


def test_parts_and_their_shares_are_read():
    assert parts_named("my/camera") == [("my/camera", None)]
    assert parts_named("my/camera + other/*.png") == [("my/camera", None), ("other/*.png", None)]
    assert parts_named("2 of gta5:/data + synthia:/more@x") == [("gta5:/data", 2), ("synthia:/more@x", 1)]
    assert joined_reference(["2 of a", "b"]) == "2 of a + b"
    assert joined_reference("a") == "a"
    assert joined_reference([]) is None
    assert joined_reference(None) is None
    for empty in ("", " ", [""], ["a", ""], ("",)):  # a shell's variable that was never set
        with pytest.raises(SegRefineryError, match="is empty"):
            joined_reference(empty)
    with pytest.raises(SegRefineryError, match="1 to 999"):
        parts_named("1000 of a + b")
    for text in ("0.5 of a", "50% of a", "50 % of a", "-1 of a", "2of a", "1/2 of a"):
        with pytest.raises(SegRefineryError, match=r"has a share that is no whole number \(.*of\); write 1 to 999"):
            parts_named(f"b + {text}")
    for text in ("a + ", " + a", "a +  + b"):  # an empty path would be this folder
        with pytest.raises(SegRefineryError, match="has an empty name"):
            parts_named(text)


def test_a_path_that_exists_is_taken_at_its_word(tmp_path):
    odd = tmp_path / "3 of a + b"
    picture(odd / "1.png", (8, 8))
    assert parts_named(str(odd)) == [(str(odd), None)]
    assert len(open_dataset(str(odd))) == 1


def test_classes_are_matched_by_name_and_united(tmp_path):
    one = described(tmp_path / "one", ("road", "car"), value=1)
    two = described(tmp_path / "two", ("sky", "Car", "street"), names=("b", "c"), value=1)
    joined = open_dataset(f"{one} + {two}")
    assert joined.space is not None
    assert joined.space.classes[:3] == ("road", "car", "sky")
    assert [joined.name(index) for index in range(4)] == ["a", "1/b", "2/b", "c"]
    assert {int(joined.label(index).unique()) for index in range(4)} == {1}  # car is 1 in the union, of both
    assert parts_of(Remapped(joined, joined.space))[1].images == 2
    assert Remapped(joined, joined.space).notes == (
        f"{one} lacks sky, street, which others have",
        f"{two} lacks road, which others have",
    )
    merged = LabelSpace.of("merged", ("road", "car"))
    assert Remapped(joined, merged, {"street": "road", "sky": None}).notes == ()
    assert torch.equal(joined.image(2), open_dataset(two).image(0))


def test_what_is_joined_has_the_fingerprint_of_its_parts_and_their_shares(tmp_path):
    one, two = described(tmp_path / "one", ("road", "car")), described(tmp_path / "two", ("road", "car"), value=0)
    prints = {fingerprint(open_dataset(text)) for text in (f"{one} + {two}", f"{two} + {one}", f"2 of {one} + {two}")}
    assert len(prints) == 3
    assert fingerprint(open_dataset(f"{one} + {two}")) in prints


def test_a_choice_of_images_is_a_data_set(tmp_path):
    one, two = described(tmp_path / "one", ("road", "car")), described(tmp_path / "two", ("road", "car"), value=0)
    joined = open_dataset(f"{one} + 3 of {two}")
    chosen = Chosen(joined, [3, 1])
    assert [chosen.name(0), chosen.name(1)] == ["2/b", "1/b"]
    assert [int(chosen.label(place)[0, 0]) for place in range(2)] == [0, 1]
    assert [(part.images, part.share) for part in parts_of(chosen)] == [(1, 1), (1, 3)]
    assert [part.reference for part in parts_of(Chosen(joined, [0, 1]))] == [one]
    assert fingerprint(chosen) != fingerprint(Chosen(joined, [1, 3]))
    assert not hasattr(UnlabeledView(chosen), "label")


def test_shares_are_kept_exactly_and_each_part_is_gone_through_evenly():
    parts = [(3, 2), (5, 1)]
    sampler = sampler_of(8, parts, 7, lambda own, seed: UniformSampler(own.stop - own.start, seed))
    drawn = [sampler.draw(position) for position in range(30)]
    assert [sampler.draw(position) for position in range(30)] == drawn
    counts = Counter(draw.index for draw in drawn)
    assert [counts[index] for index in range(3)] == [20 // 3 + (place in extra) for place, extra in each_extra(counts)]
    assert [counts[index] for index in range(3, 8)] == [2] * 5
    assert len({draw.seed for draw in drawn}) == 30
    for start in range(0, 30, 3):
        assert sum(draw.index < 3 for draw in drawn[start : start + 3]) == 2


def each_extra(counts):
    """Of 20 draws of 3 images each has 6 or 7."""
    extra = {place for place in range(3) if counts[place] == 7}
    assert len(extra) == 2
    return [(place, extra) for place in range(3)]


def test_the_order_of_the_parts_changes_from_round_to_round():
    class Told:
        def __init__(self):
            self.asked = []

        def draw(self, position):
            self.asked.append(position)
            return Draw(0, position)

    samplers = [Told(), Told()]
    sampler = ProportionalSampler(samplers, [0, 1], [1, 1], 3)
    order = [sampler.draw(position).index for position in range(40)]
    assert {tuple(order[place : place + 2]) for place in range(0, 40, 2)} == {(0, 1), (1, 0)}
    assert samplers[0].asked == samplers[1].asked == list(range(20))


def test_without_shares_every_image_is_drawn_alike():
    sampler = sampler_of(8, [(3, None), (5, None)], 7, lambda own, seed: UniformSampler(own.stop - own.start, seed))
    assert sorted(sampler.draw(position).index for position in range(8)) == list(range(8))
