"""The classes of the scenes, a subset of Cityscapes-19 with its names and colours."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "road",
    "sidewalk",
    "building",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "bus",
    "bicycle",
)

COLORS: tuple[tuple[int, int, int], ...] = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 60, 100),
    (119, 11, 32),
)

(ROAD, SIDEWALK, BUILDING, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, BUS, BICYCLE) = (
    range(len(CLASSES))
)
