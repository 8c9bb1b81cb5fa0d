"""Films as data sets: every n-th frame, decoded as a stream by PyAV."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import whole_file
from segrefinery.core.lazy import optional
from segrefinery.data.decoding import DataError, unreadable_file

if TYPE_CHECKING:
    from torch import Tensor

FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")
_OPTIONS = ("every", "from", "to")


class FilmName(NamedTuple):
    """What ``drive.mp4,every=10,from=600,to=1200`` says: frames are counted from 0, and ``to`` is not among them."""

    path: Path
    every: int = 1
    begin: int = 0
    end: int | None = None


def film_named(reference: str) -> FilmName | None:
    """The film that a reference names; None where it names none.

    Raises:
        DataError: an option is unknown or no number.
    """
    hit = re.match(rf"(?P<path>[^,]*({'|'.join(map(re.escape, FILM_SUFFIXES))}))(?P<options>(,.*)?)$", reference, re.I)
    if hit is None:
        return None
    values: dict[str, int] = {}
    for option in hit["options"].split(",")[1:]:
        name, _, value = option.strip().partition("=")
        if name not in _OPTIONS or not re.fullmatch(r"\d{1,9}", value) or (name == "every" and not int(value)):
            remedy = "write FILM.mp4,every=10,from=600,to=1200"
            raise DataError(reference, "reference", f"cannot read {option!r}", remedy)
        values[name] = int(value)
    return FilmName(Path(hit["path"]).expanduser(), values.get("every", 1), values.get("from", 0), values.get("to"))


class FilmDataset:
    """Every n-th frame of a film, without labels; named ``drive_000120`` by its number in the film.

    Frames in order are decoded as a stream; one out of order is looked for from the key frame before it.

    Attributes:
        numbers: of its frames in the film. every: how far these are apart.
        rate: how many of them are a second of the film.

    Raises:
        DataError: the file is missing, no film, or has no frame in this range. SegRefineryError: PyAV is not installed.
    """

    space = None
    has_labels = False

    def label(self, index: int) -> Tensor:
        raise DataError(self.path, "mask", "a film has no masks", "use it as a target only")

    def __init__(self, reference: str, name: FilmName) -> None:
        self.reference, self.path = reference, name.path
        self.every = name.every
        self._times, declared, rate = _times_in(name.path)
        self.numbers = range(name.begin, len(self._times) if name.end is None else min(name.end, len(self._times)))
        self.numbers = self.numbers[:: name.every]
        self.rate = rate / name.every
        self.notes: tuple[str, ...] = ()
        if declared > len(self._times):
            self.notes = (f"{name.path.name} ends broken: {len(self._times)} of about {declared} frames are read",)
        if not self.numbers:
            asked = f"from {name.begin} on" if name.end is None else f"from {name.begin} to {name.end}"
            problem = f"has {len(self._times)} frames, none of them {asked}"
            raise DataError(name.path, "frames", problem, "correct from= and to=")
        self._lock, self._stream = threading.Lock(), None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_stream")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock, self._stream = threading.Lock(), None

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        return f"{self.path.stem}_{self.numbers[index]:06d}"

    def image(self, index: int) -> Tensor:
        """uint8 RGB, 3 x H x W.

        Raises:
            DataError: the frame cannot be decoded.
        """
        number = self.numbers[index]
        with self._lock:
            if self._stream is None or not self._stream.may_come_to(number):
                self._stream = _Stream(self.path, self._times, number)
            try:
                pixels = self._stream.frame(number)
            except DataError:
                self._stream = None
                raise
        import torch

        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)

    def content_key(self) -> Iterator[str]:
        try:
            stat = self.path.stat()
        except OSError as error:
            raise unreadable_file(self.path, "path", error) from error
        yield f"film {self.path.name} {stat.st_size} {stat.st_mtime_ns} {self.numbers}"


class _Stream:
    """A film that is being decoded, from the key frame before ``first`` on."""

    LOOK = 250
    """Frames that are rather decoded than looked for anew."""

    def __init__(self, path: Path, times: list[int], first: int) -> None:
        self.path, self._times, self._process = path, times, os.getpid()
        av = _av()
        try:
            self._container = av.open(str(path))
            video = self._container.streams.video[0]
            video.thread_type = "AUTO"
            if first:
                self._container.seek(times[first], stream=video)
            self._frames = self._container.decode(video)
        except (av.FFmpegError, OSError) as error:
            raise _undecodable(path, first, error) from error
        self._last = -1 if not first else first - 1

    def may_come_to(self, number: int) -> bool:
        """Whether a frame lies a little ahead, and the decoder is this process's own."""
        return self._process == os.getpid() and 0 < number - self._last <= self.LOOK

    def frame(self, number: int) -> np.ndarray:
        """H x W x 3 uint8, turned as the film says."""
        wanted = self._times[number]
        try:
            for frame in self._frames:
                time = frame.pts if frame.pts is not None else frame.dts
                if time is not None and time >= wanted:
                    if time > wanted:
                        break
                    self._last = number
                    pixels = frame.to_ndarray(format="rgb24")
                    return np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90))
        except _av().FFmpegError as error:
            raise _undecodable(self.path, number, error) from error
        raise _undecodable(self.path, number, "it is not there")


def _times_in(path: Path) -> tuple[list[int], int, float]:
    """The times of a film's frames in order, as its packets tell without decoding; how many its header declares; and
    frames a second."""
    av = _av()
    if not path.is_file():
        raise DataError(path, "path", "does not exist or is no file", "check the spelling and that the film is there")
    times: set[int] = set()
    hidden = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(path, "film", "has no pictures", "name another film")
            video = container.streams.video[0]
            rate = float(video.average_rate or 25)
            declared = int(video.frames or 0)
            length = 0.0 if declared or not container.duration else float(container.duration) / av.time_base
            by_moments = container.format.name == "avi"
            second = 1 / float(video.time_base or 1)
            try:
                for packet in container.demux(video):
                    time = packet.pts if packet.pts is not None else packet.dts
                    if packet.size and time is not None and not packet.is_discard and not packet.is_corrupt:
                        times.add(time)
                    hidden += packet.is_discard  # an edit list cuts it off, and the header counts it
            except av.FFmpegError:
                declared = max(declared, len(times) + 1)  # what follows cannot be read
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"is no film that can be decoded ({reason})"
        remedy = "copy it again: one that was cut short may lack its table of contents"
        raise DataError(path, "film", problem, remedy) from error
    if not times:
        raise DataError(path, "film", "holds no frame that can be read (0 frames read)", "copy it again")
    ordered = sorted(times)
    if by_moments and declared:  # AVI counts a moment at which no new frame is shown too
        declared = frames_of(ordered, declared, exact=True)
    declared = declared - hidden or frames_of([time / second for time in ordered], length)
    return _as_far_as_they_come(path, ordered) if declared > len(ordered) else ordered, declared, rate


def _as_far_as_they_come(path: Path, times: list[int]) -> list[int]:
    """The times of a film that ends broken without the last frames that need others which are lost."""
    begin = max(0, len(times) - _Stream.LOOK)
    come = set()
    with suppress(DataError, _av().FFmpegError), _av().open(str(path)) as container:
        video = container.streams.video[0]
        container.seek(times[begin], stream=video)
        for frame in container.decode(video):
            come.add(frame.pts if frame.pts is not None else frame.dts)
    lost = next((place for place in range(begin, len(times)) if times[place] not in come), len(times))
    return times[:lost] or times


def frames_of(times: Sequence[float], length: float, exact: bool = False) -> int:
    """About how many frames a film of ``length`` (seconds, or as ``times`` are) has of which those at ``times`` are
    there: as many, whatever their distances are, if they reach its end, but for a twentieth unless ``exact``.

    A film may begin late; whether its length counts from there or from 0 differs, so the later end is taken."""
    gaps = np.diff(times)
    end = times[-1] - min(times[0], 0) + (float(gaps.max()) if len(gaps) else length)
    return len(times) if end >= (1 if exact else 0.95) * length else round(len(times) * length / end)


def write_film(path: Path, pictures: Iterator[np.ndarray], rate: float) -> None:
    """Write pictures, H x W x 3 uint8 and all of one size, as a film of ``rate`` a second, as they come; an odd side
    loses a row or column, for films have none.

    Raises:
        SegRefineryError: the file cannot be written, or no encoder is there.
    """
    av = _av()
    with whole_file(path, durable=False) as file:
        try:
            with av.open(file, "w", format="mp4") as container:
                stream = None
                for picture in pictures:
                    height, width = (side - side % 2 for side in picture.shape[:2])
                    if stream is None:
                        stream = container.add_stream("libx264", rate=Fraction(max(rate, 0.1)).limit_denominator(1000))
                        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    shown = np.ascontiguousarray(picture[: stream.height, : stream.width])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
                if stream is not None:
                    container.mux(stream.encode())
        except (av.FFmpegError, ValueError) as error:
            raise SegRefineryError(f"{path}: the film cannot be written ({error})") from error


def films_in(dataset: Any) -> list[FilmDataset]:
    """The films that a data set, or a view or a joint of several, is made of."""
    if isinstance(dataset, FilmDataset):
        return [dataset]
    return [film for each in getattr(dataset, "sets", ()) for film in films_in(each)]


def frames_shared(film: FilmDataset, names: list[str]) -> list[str]:
    """The names, as ``drive_000121``, that say frames between the first and the last of a film's."""
    first, last = film.numbers[0], film.numbers[-1] + film.every
    inside = []
    for name in names:
        hit = re.fullmatch(r"(?P<film>.+)[_-](?P<number>\d+)", name.rpartition("/")[2])
        if hit and hit["film"] == film.path.stem and first - film.every < int(hit["number"]) < last:
            inside.append(name)
    return inside


def _undecodable(path: Path, number: int, error: object) -> DataError:
    reason = getattr(error, "strerror", None) or error
    problem = f"cannot be decoded ({reason}); {number} frames are before it"
    return DataError(path, f"frame {number}", problem, f"copy the film again, or end before it with to={number}")


def _av() -> Any:
    return optional("av", "films need PyAV", "films")
