"""The published data sets, in the folders and with the mask encodings in which they are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from segrefinery.data.decoding import DataError
from segrefinery.data.discover import require_folder, walk
from segrefinery.data.files import WRITE_A_DATASET_YAML, FileDataset, IdMasks, Sample
from segrefinery.labels import IGNORE, SPACES, LabelSpace, lookup_table

# Label ids of Cityscapes; GTA5 uses the same. All others up to 34 are declared, but not evaluated.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LABEL_IDS: dict[int, str | None] = {
    **dict.fromkeys([*range(35), IGNORE]),
    **dict(zip(_CITYSCAPES_IDS, SPACES["cityscapes"].classes)),
}
_TRAIN_IDS: dict[int, str | None] = {**dict(enumerate(SPACES["cityscapes"].classes)), IGNORE: None}

# SYNTHIA-RAND-CITYSCAPES. The benchmark's 16 classes leave terrain, truck and train out; 0, 13, 14 and 22 are void,
# parking slot, road work and lane marking.
_SYNTHIA_IDS: dict[int, str | None] = {
    **dict.fromkeys(range(23)),
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    17: "rider",
    19: "bus",
    21: "wall",
}


def gta5(root: Path, split: str | None, reference: str) -> FileDataset:
    """``images/00001.png`` and ``labels/00001.png``: palette PNGs whose indices are Cityscapes label ids."""
    _no_split("gta5", split)
    return _paired(root, reference, "images", "labels", _masks(_LABEL_IDS))


def synthia(root: Path, split: str | None, reference: str) -> FileDataset:
    """RAND_CITYSCAPES: ``RGB/0000000.png`` and ``GT/LABELS/0000000.png`` (16 bit; channels: class, instance)."""
    _no_split("synthia", split)
    space = SPACES["synthia16"]
    return _paired(root, reference, "RGB", "GT/LABELS", _masks(_SYNTHIA_IDS, space, channel=0), space)


def cityscapes(root: Path, split: str | None, reference: str) -> FileDataset:
    """``leftImg8bit/SPLIT/CITY/X_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/X_gtFine_labelIds.png``; split: train."""
    split = split or "train"
    folder = _split_folder(root, "leftImg8bit", split)
    return _join(root, reference, [(folder, root / "gtFine" / split)], "_leftImg8bit.png", "_gtFine")


def acdc(root: Path, split: str | None, reference: str) -> FileDataset:
    """``rgb_anon/CONDITION/SPLIT/SEQUENCE/X_rgb_anon.png`` and ``gt/...``.

    The split is SPLIT (all conditions), or SPLIT/CONDITION such as ``val/night``; without one, train.
    """
    part, _, condition = (split or "train").partition("/")
    conditions = [condition] if condition else _folders(root / "rgb_anon")
    pairs = [
        (f"{c}/{part}", f"gt/{c}/{part}") for c in conditions if condition or (root / "rgb_anon" / c / part).is_dir()
    ]
    if not pairs:
        splits = sorted({s for c in conditions for s in _folders(root / "rgb_anon" / c)})
        raise DataError(root, "split", f"there is no split {part!r}", f"choose one of: {', '.join(splits)}")
    return _anonymous(root, reference, pairs)


def dark_zurich(root: Path, split: str | None, reference: str) -> FileDataset:
    """``rgb_anon/SPLIT/CONDITION/SEQUENCE/X_rgb_anon.png`` and ``gt/...``.

    The split is SPLIT or SPLIT/CONDITION; without one, train/night.
    """
    split = split or "train/night"
    return _anonymous(root, reference, [(split, f"gt/{split}")])


Layout = Callable[[Path, str | None, str], FileDataset]
LAYOUTS: Mapping[str, Layout] = {
    "gta5": gta5,
    "synthia": synthia,
    "cityscapes": cityscapes,
    "acdc": acdc,
    "dark_zurich": dark_zurich,
}


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise DataError(f"{name}@{split}", "split", f"{name} has no splits", f"leave @{split} away")


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _split_folder(root: Path, images: str, split: str) -> Path:
    require_folder(root)
    require_folder(root / images)
    folder = root / images / split
    if not folder.is_dir():
        above, _, name = split.rpartition("/")
        choices = [f"{above}/{c}" if above else c for c in _folders(root / images / above)]
        raise DataError(root / images, "split", f"there is no split {name!r}", f"choose one of: {', '.join(choices)}")
    return folder


def _paired(
    root: Path, reference: str, images: str, labels: str, masks: IdMasks, space: LabelSpace = SPACES["cityscapes"]
) -> FileDataset:
    """Image and mask of one file name in two folders."""
    require_folder(root)
    require_folder(root / images)
    samples = [
        Sample(name.removesuffix(".png"), root / images / name, root / labels / name)
        for name in walk(root / images)
        if name.endswith(".png")
    ]
    return _dataset(root / images, reference, samples, (root / labels).is_dir(), masks, space)


def _anonymous(root: Path, reference: str, pairs: list[tuple[str, str]]) -> FileDataset:
    folders = [(_split_folder(root, "rgb_anon", split), root / gt) for split, gt in pairs]
    return _join(root, reference, folders, "_rgb_anon.png", "_gt")


def _join(root: Path, reference: str, folders: list[tuple[Path, Path]], suffix: str, mark: str) -> FileDataset:
    """Images that end in ``suffix``; masks that end in ``mark`` and _labelIds.png, or else _labelTrainIds.png."""
    labelled = [gt for _, gt in folders if gt.is_dir()]
    has_label_ids = any(name.endswith(f"{mark}_labelIds.png") for gt in labelled for name in walk(gt))
    ending, ids = ("_labelIds.png", _LABEL_IDS) if has_label_ids else ("_labelTrainIds.png", _TRAIN_IDS)
    samples = []
    for images, gt in folders:
        for file in walk(images):
            if file.endswith(suffix):
                name = (images / file).relative_to(root).as_posix().partition("/")[2].removesuffix(suffix)
                samples.append(Sample(name, images / file, gt / f"{file.removesuffix(suffix)}{mark}{ending}"))
    return _dataset(root, reference, samples, bool(labelled), _masks(ids), SPACES["cityscapes"])


def _masks(
    ids: Mapping[int, str | None], space: LabelSpace = SPACES["cityscapes"], channel: int | None = None
) -> IdMasks:
    return IdMasks(lookup_table(ids, space), channel, remedies=WRITE_A_DATASET_YAML)


def _dataset(
    root: Path, reference: str, samples: list[Sample], labelled: bool, masks: IdMasks, space: LabelSpace
) -> FileDataset:
    if not samples:
        raise DataError(root, "images", "holds no image in this data set's layout", "check that it is unpacked there")
    if not labelled:
        return FileDataset(reference, [Sample(sample.name, sample.image) for sample in samples], space)
    return FileDataset(reference, samples, space, masks)
