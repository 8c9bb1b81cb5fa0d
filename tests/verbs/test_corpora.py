"""Images shared among processes: all of them once, and nothing that is finished again."""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segrefinery as api
from data.pictures import picture
from runs import tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import only_writer
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.engine import shares
from segrefinery.interchange.labels import PngLabels
from segrefinery.verbs.corpus import Job
from segrefinery.verbs.predict import write_predictions
from segrefinery.verbs.pseudo_label import write_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run") / "run", "source_only")


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("camera")
    for number in range(5):
        picture(folder / f"{number}.png", (32, 64), 40 * number)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    return folder


def start(words: list[str], rank: int, port: int) -> subprocess.Popen[str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    return subprocess.Popen([sys.executable, "-m", "segrefinery", *words], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def test_two_processes_do_each_its_share(run, camera, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["pseudo-label", str(run), str(camera), "-o", str(tmp_path / "two")]
    both = [start(words, rank, port) for rank in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [2, 0], said
    assert "5 labels written" in said[0][0]
    assert "1 of 6 images were left out" in said[0][1]
    assert said[1][0] == ""
    with pytest.raises(SegRefineryError, match="left out"):
        api.pseudo_label(run, camera, tmp_path / "one")
    for name in ("files.csv", "classes.json", *(path.name for path in (tmp_path / "one").glob("*.png"))):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_parquet_is_read_by_its_own_library(run, camera, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_labels(run, camera, tmp_path / "table", format="parquet").written == 5
    rows = parquet.read_table(tmp_path / "table/part-000000.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["0", "1", "2", "3", "4"]
    write_labels(run, camera, tmp_path / "png")
    for row in rows:
        label = np.array(Image.open(io.BytesIO(row["label"])))
        assert np.array_equal(label, np.array(Image.open(tmp_path / f"png/{row['number']:06d}_{row['name']}.png")))
    assert write_labels(run, camera, tmp_path / "table", format="parquet").kept >= 5


def test_a_part_of_parquet_holds_some_pictures_at_a_time(run, camera, tmp_path, monkeypatch):
    """However many large ones it is of."""
    parquet = pytest.importorskip("pyarrow.parquet")
    write_labels(run, camera, tmp_path / "whole", format="parquet")
    monkeypatch.setattr("segrefinery.interchange.labels.parquet.AT_ONCE", 1)
    write_labels(run, camera, tmp_path / "table", format="parquet")
    file = parquet.ParquetFile(tmp_path / "table/part-000000.parquet")
    assert file.num_row_groups == 5
    assert file.read().equals(parquet.read_table(tmp_path / "whole/part-000000.parquet"))
    assert {path.name for path in (tmp_path / "table").iterdir()} == {
        "part-000000.parquet", "classes.json", "made.json"
    }  # fmt: skip


def test_a_picture_that_no_cell_holds_is_left_out(run, camera, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "in"
    picture(folder / "a.png", (32, 64))
    picture(folder / "b.png", (32, 65))
    monkeypatch.setattr("segrefinery.interchange.labels.parquet.LONGEST", 32 * 64)
    result = write_labels(run, folder, tmp_path / "table", format="parquet")
    assert result.first_faults() == (
        f"{folder}/b.png: image: has 65 x 32 pixels, more than 2,048, and Parquet keeps a picture in one cell; write "
        "--format png, or cut it into tiles."
    )
    assert parquet.read_table(tmp_path / "table/part-000000.parquet")["name"].to_pylist() == ["a"]


def test_the_shares_of_a_job_are_all_of_it_once(run, camera, tmp_path, monkeypatch):
    model, dataset = api.load(run, "cpu"), UnlabeledView(open_dataset(str(camera)))
    job, done = Job(model, dataset, PngLabels(tmp_path, model.space)), []
    monkeypatch.setattr(Job, "do", lambda self, places: done.extend(places) or {})
    monkeypatch.setattr(shares, "world_size", lambda: 3)
    gather = lambda found, own: found.__setitem__(slice(None), [own] * 3)  # noqa: E731
    monkeypatch.setattr(shares.distributed, "all_gather_object", gather)
    for rank in range(3):
        monkeypatch.setattr(shares, "rank", lambda rank=rank: rank)
        shares.in_shares(job, range(6), lambda done: None)
    assert sorted(done) == list(range(6))
    assert shares.chunks([0, 31, 32, 70], 32) == [[0, 31], [32], [70]]


def test_without_ray_the_extra_is_named(run, camera, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SegRefineryError, match=r"segrefinery\[ray\]"):
        write_predictions(run, camera, tmp_path / "out", engine="ray")
    with pytest.raises(SegRefineryError, match="write local or ray"):
        write_labels(run, camera, tmp_path / "other", engine="spark")


@pytest.mark.slow
def test_ray_writes_what_one_process_does(run, camera, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers get nothing beside other work
    found = write_predictions(run, camera, tmp_path / "ray", engine="ray", workers=1)
    assert (found.written, len(found.unreadable)) == (5, 1)
    write_predictions(run, camera, tmp_path / "one")
    with (tmp_path / "ray/files.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert write_predictions(run, camera, tmp_path / "ray", engine="ray", workers=1).kept == 5


@pytest.mark.parametrize("write", [write_labels, write_predictions])
def test_of_two_that_write_one_folder_the_second_is_refused(run, camera, tmp_path, write):
    (tmp_path / "out").mkdir()
    with only_writer(tmp_path / "out"):
        with pytest.raises(SegRefineryError, match="out: another process is writing there"):
            write(run, camera / "0.png", tmp_path / "out")
        assert not any((tmp_path / "out").iterdir())
    assert write(run, camera / "0.png", tmp_path / "out").written == 1
