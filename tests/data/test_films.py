"""Films: which frames, in any order, what is broken, and neighbours in the evaluation."""

from __future__ import annotations

import pickle
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from data.pictures import index_png, picture
from runs import tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.check import overlaps
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.films import frames_of, write_film
from segrefinery.verbs.predict import write_predictions

av = pytest.importorskip("av")


def film(path: Path, frames: int = 40) -> Path:
    """Frame n is grey of 6 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(path, (np.full((32, 64, 3), 6 * n, np.uint8) for n in range(frames)), 10)
    return path


def shown(dataset, index: int) -> int:
    return round(float(dataset.image(index).float().mean()) / 6)


def test_every_nth_frame_in_any_order_and_process(tmp_path):
    dataset = open_dataset(f"{film(tmp_path / 'drive.mp4')},every=10,from=5,to=36")
    assert [dataset.name(n) for n in range(len(dataset))] == [f"drive_{n:06d}" for n in (5, 15, 25, 35)]
    assert [shown(dataset, n) for n in (0, 1, 3, 0, 2, 2)] == [5, 15, 35, 5, 25, 25]
    assert shown(pickle.loads(pickle.dumps(dataset)), 3) == 35
    assert dataset.image(0).shape == (3, 32, 64)
    assert not dataset.has_labels


def test_a_film_is_of_the_library_what_it_is_of_ours(tmp_path):
    with av.open(str(film(tmp_path / "a.mp4", 9))) as container:
        theirs = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    ours = open_dataset(str(tmp_path / "a.mp4"))
    assert len(ours) == 9
    assert all(np.array_equal(ours.image(n).permute(1, 2, 0).numpy(), theirs[n]) for n in range(9))


def broken(path: Path) -> Path:
    """A film whose container is written as it goes, cut."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        dice = np.random.default_rng(0)
        for _ in range(40):
            noise = dice.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("frames", [30, 1])
def test_a_film_of_no_steady_rate_is_whole(tmp_path, frames):
    random = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time in enumerate(np.cumsum(random.integers(10, 200, frames)).tolist()):
            frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), 6 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    dataset = open_dataset(str(tmp_path / "a.mkv"))
    assert (len(dataset), dataset.notes) == (frames, ())
    assert [shown(dataset, n) for n in range(0, frames, 7)] == list(range(0, frames, 7))


@pytest.mark.parametrize(("name", "begin"), [("late.mkv", 5000), ("cut_by_its_list.mp4", -200)])
def test_a_film_that_begins_late_or_is_cut_by_an_edit_list_is_whole(tmp_path, name, begin):
    path = timed(tmp_path / name, [begin + 40 * n for n in range(40)])
    dataset = open_dataset(str(path))
    assert dataset.notes == ()
    with av.open(str(path)) as container:
        theirs = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(dataset) == len(theirs) == (40 if begin > 0 else 35)
    assert np.array_equal(dataset.image(7).permute(1, 2, 0).numpy(), theirs[7])


def test_moments_of_an_avi_without_a_new_frame_are_none_that_are_lost(tmp_path):
    path = timed(tmp_path / "a.avi", [40 * n for n in range(40)], "mpeg4")
    dataset = open_dataset(str(path))
    assert (len(dataset), dataset.notes) == (40, ())


def test_last_frames_that_need_lost_ones_are_left_out(tmp_path):
    path = timed(tmp_path / "a.mp4", [40 * n for n in range(60)], faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    dataset = open_dataset(str(path))
    assert f"ends broken: {len(dataset)} of about 60 frames" in dataset.notes[0]
    for index in range(len(dataset)):
        dataset.image(index)


def timed(path: Path, times: list[int], codec: str = "libx264", faststart: bool = False) -> Path:
    """A film whose frames, pictures of noise, are shown at these milliseconds."""
    dice = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 12
        if codec == "libx264":
            stream.codec_context.max_b_frames = 2
        for time in times:
            frame = av.VideoFrame.from_ndarray(dice.integers(0, 255, (32, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_that_do_not_reach_the_end_are_a_part():
    assert frames_of([0, 1, 2, 5], 6, exact=True) == 4
    assert frames_of([0, 1, 2, 3], 5, exact=True) == 5
    assert frames_of([0.0, 1.0, 1.5, 3.0], 4.6) == 4
    assert frames_of([0.0, 1.0, 2.0, 3.0], 8.0) == 8


def test_one_that_ends_broken_is_read_as_far_as_it_goes(tmp_path):
    dataset = open_dataset(str(broken(tmp_path / "cut.avi")))
    assert 0 < len(dataset) < 40
    (note,) = dataset.notes
    assert f"ends broken: {len(dataset)} of about 40 frames" in note
    dataset.image(len(dataset) - 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.mp4", "does not exist"),
        ("text.mp4", "no film that can be decoded"),
        ("drive.mp4,every=0", "cannot read 'every=0'"),
        ("drive.mp4,step=3", "every=10"),
        ("drive.mp4,from=40", "has 40 frames, none of them from 40 on"),
        (".", "drive.mp4,every=10"),
    ],
)
def test_wrong_films_are_one_line(tmp_path, name, message):
    film(tmp_path / "drive.mp4")
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(SegRefineryError, match=message):
        open_dataset(f"{tmp_path}/{name}")


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    path = film(tmp_path / "drive.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SegRefineryError, match=r"segrefinery\[films\]"):
        open_dataset(str(path))


def test_frames_to_score_on_between_those_of_the_target_are_said(tmp_path):
    path = film(tmp_path / "drive.mp4")
    for name in ("drive_000012", "drive_000030"):
        picture(tmp_path / f"images/{name}.png", (32, 64))
        index_png(tmp_path / f"masks/{name}.png", np.zeros((32, 64), np.uint8))
    described = "images: images/{name}.png\nmasks: masks/{name}.png\nclasses: [road, car]\n"
    (tmp_path / "dataset.yaml").write_text(described)
    evaluation = open_dataset(f"folder:{tmp_path}")
    for target in (open_dataset(f"{path},every=10,to=21"), UnlabeledView(open_dataset(f"{path},every=10,to=21"))):
        (problem,) = overlaps(None, target, evaluation)
        assert "1 of its 2 images, first drive_000012, are by name frames of drive.mp4" in problem.message
    assert overlaps(None, open_dataset(f"{path},to=11"), evaluation) == []


def test_a_prediction_is_a_film_too(tmp_path):
    run = tiny_run(tmp_path / "run", "source_only")
    write_predictions(run, f"{film(tmp_path / 'drive.mp4')},every=10", tmp_path / "out")
    beside = open_dataset(str(tmp_path / "out/drive.mp4"))
    assert len(beside) == 4
    assert beside.image(0).shape == (3, 32, 128)
    assert abs(float(beside.image(2)[:, :, :64].float().mean()) - 120) < 4
