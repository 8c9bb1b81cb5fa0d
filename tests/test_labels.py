from __future__ import annotations

import pytest
import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.labels import (
    IGNORE,
    SPACES,
    UNKNOWN,
    LabelSpace,
    apply_table,
    check_merge,
    common_space,
    lookup_table,
    match,
    merged,
    parse_space,
)


def space(*classes: str, name: str = "s") -> LabelSpace:
    return LabelSpace.of(name, classes)


def test_known_spaces_have_their_sizes_and_distinct_colors():
    assert {name: s.num_classes for name, s in SPACES.items()} == {
        "cityscapes": 19,
        "synthia16": 16,
        "synthia13": 13,
        "camvid": 11,
    }
    for known in SPACES.values():
        assert len(set(known.colors)) == known.num_classes
    assert SPACES["cityscapes"].colors[13] == (0, 0, 142)
    assert not {"terrain", "truck", "train"} & set(SPACES["synthia16"].classes)
    assert not {"wall", "fence", "pole"} & set(SPACES["synthia13"].classes)


@pytest.mark.parametrize("spelling", ["traffic light", "TrafficLight", "traffic_light", "TRAFFIC-LIGHT"])
def test_names_match_whatever_their_case_and_separators(spelling):
    assert SPACES["cityscapes"].id_of(spelling) == 6


def test_synonyms_match_but_only_the_certain_ones():
    city = SPACES["cityscapes"]
    assert city.id_of("Pavement") == city.id_of("sidewalk") == 1
    assert SPACES["camvid"].id_of("vegetation") == 5
    assert match("vehicle", city.classes) is None
    assert match("bicyclist", city.classes) is None


def test_the_same_spelling_wins_over_a_synonym_and_ambiguity_is_refused():
    both = ("tree", "vegetation")
    assert match("Vegetation", both) == 1
    with pytest.raises(SegRefineryError, match="may be any of tree, vegetation"):
        match("trees", both)


def test_names_that_are_not_ascii_stay_apart():
    assert space("Straße", "道路").id_of("道路") == 1


def test_an_unknown_class_names_the_choices():
    with pytest.raises(SegRefineryError, match=r"no class 'dog'. Choose one of: road, car"):
        space("road", "car").id_of("dog")


@pytest.mark.parametrize("classes", [("road",), (), ("Traffic Light", "traffic_light")])
def test_a_space_needs_two_different_classes(classes):
    with pytest.raises(SegRefineryError):
        space(*classes)


def test_binary_spaces_work():
    assert common_space(space("background", "road"), space("Road", "Background")).classes == ("Road", "Background")


def test_common_space_has_the_targets_names_order_and_colors():
    common = common_space(SPACES["cityscapes"], SPACES["camvid"])
    assert common.classes == (
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
    )
    assert common.colors[5] == (128, 128, 0)


def test_common_space_of_equal_spaces_is_the_space():
    assert common_space(SPACES["camvid"], SPACES["camvid"]) is SPACES["camvid"]


def test_merge_renames_and_ignores_on_both_sides():
    source = space("Vehicles", "road", "Wall", name="a")
    target = space("road", "car", "truck", "wall", name="b")
    common = common_space(source, target, {"vehicles": "car", "truck": "car", "wall": None})
    assert common.classes == ("road", "car")


def test_no_common_class_names_both_lists():
    with pytest.raises(SegRefineryError) as error:
        common_space(space("cat", "dog", name="pets"), space("road", "car", name="street"))
    assert "pets has: cat, dog" in str(error.value)
    assert "street has: road, car" in str(error.value)


def test_a_merge_of_a_class_that_no_one_has_is_refused():
    with pytest.raises(SegRefineryError, match="no class is named 'vehicels'"):
        check_merge({"vehicels": "car"}, space("road", "car"), space("road", "car"))


def test_merged_keeps_the_color_of_the_class_whose_name_is_kept():
    old = LabelSpace("s", ("tram", "bus"), ((1, 2, 3), (4, 5, 6)))
    assert merged(LabelSpace("s", ("van", *old.classes), ((9, 9, 9), *old.colors)), {"van": "bus"}).colors == (
        (4, 5, 6),
        (1, 2, 3),
    )


def test_lookup_table_maps_ignores_and_leaves_the_rest_unknown():
    table = lookup_table({7: "road", 11: "SideWalk", 3: None, 5: "dog"}, space("sidewalk", "road"))
    assert table.shape == (256,)
    assert table[[7, 11, 3, 5, 4]].tolist() == [1, 0, IGNORE, IGNORE, UNKNOWN]


def test_lookup_table_merges_before_it_matches():
    table = lookup_table(
        {0: "RoadLine", 1: "Road", 2: "Wall"}, space("road", "wall"), {"road line": "road", "wall": None}
    )
    assert table[:3].tolist() == [0, 0, IGNORE]


def test_wide_ids_get_a_wide_table():
    table = lookup_table({300: "road"}, space("car", "road"))
    assert table.shape == (65536,)
    mask = torch.tensor([[300, 65535]], dtype=torch.uint16)
    assert apply_table(mask, table).tolist() == [[1, UNKNOWN]]
    with pytest.raises(SegRefineryError, match="70000"):
        lookup_table({70000: "road"}, space("car", "road"))


def test_ids_beyond_a_narrow_table_are_unknown():
    table = lookup_table({0: "road", 255: None}, space("road", "car"))
    mask = torch.tensor([[0, 255, 256, 9]], dtype=torch.uint16)
    assert apply_table(mask, table).tolist() == [[0, IGNORE, UNKNOWN, UNKNOWN]]
    assert apply_table(torch.tensor([[0, -1, 300]]), table).tolist() == [[0, UNKNOWN, UNKNOWN]]


def test_parse_space():
    assert parse_space("camvid") is SPACES["camvid"]
    assert parse_space("road, car").classes == parse_space(["road", "car"]).classes == ("road", "car")
    with pytest.raises(SegRefineryError, match="Did you mean 'cityscapes'"):
        parse_space("cityscape")


def test_colours_out_of_range_are_refused():
    with pytest.raises(SegRefineryError, match=r"class 'car' has the colour \(0, 256, 0\); give three values from 0"):
        LabelSpace.of("s", ("road", "car"), {"car": (0, 256, 0)})
