"""Videos: which frames come and under what names, and what becomes of damaged ones."""

import gc
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from neroli.data.arrays import picture_digest
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import ImageBatch
from neroli.data.video import Video, _moment, _packets, turned
from neroli.errors import InvalidInput

WHOLE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
GREY = Preprocessing(mean=(0.0,), std=(1.0,))
CODECS = [name for name in ("mpeg4", "libx264") if name in av.codecs_available]


def write(
    path: Path, pictures: list[np.ndarray[Any, Any]], codec: str = "mpeg4", **how: Any
) -> Path:
    """A video of ten frames a second."""
    with av.open(str(path), "w", options=how.get("options", {})) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = how.get("key_frame_every", 12)
        if "rotation" in how:
            stream.set_display_rotation(how["rotation"])
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(count: int) -> list[np.ndarray[Any, Any]]:
    """Frames of 64x48 pixels, frame i of grey level 10 * i."""
    return [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(count)]


def noise(count: int) -> list[np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(count)]


def levels(batches: list[ImageBatch]) -> list[int]:
    return [round(float(image.mean()) * 255) for batch in batches for image in batch.images]


def names(batches: list[ImageBatch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


def damaged(path: Path, at: float, length: int) -> Path:
    """The video with noise written over some of its bytes."""
    content = bytearray(path.read_bytes())
    place = int(len(content) * at)
    content[place : place + length] = np.random.default_rng(1).bytes(length)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_frames_come_in_order_named_by_their_time(tmp_path: Path, codec: str, suffix: str) -> None:
    source = Video(write(tmp_path / f"clip.{suffix}", grey(20), codec))
    batches = list(source.batches(GREY, 8))
    assert [batch.end for batch in batches] == [8, 16, 20]
    assert np.abs(np.array(levels(batches)) - np.arange(20) * 10).max() <= 4
    assert len(set(names(batches))) == 20
    if (codec, suffix) != ("libx264", "avi"):  # there the encoder's delay shifts the times
        assert names(batches)[:2] == [f"clip.{suffix}@00:00:00.000", f"clip.{suffix}@00:00:00.100"]
        assert names(batches)[-1] == f"clip.{suffix}@00:00:01.900"
    assert source.size == (None if suffix == "mkv" else 20)
    assert source.content == "picture" and repr(source) == f"Video('clip.{suffix}', every=1)"
    assert not any(batch.failures or batch.labels or batch.groups for batch in batches)


@pytest.mark.parametrize(("every", "count"), [(1, 20), (2, 10), (3, 7), (7, 3), (50, 1)])
def test_every_nth_frame_is_taken_from_the_first_on(tmp_path: Path, every: int, count: int) -> None:
    source = Video(write(tmp_path / "clip.mp4", grey(20)), every=every)
    batches = list(source.batches(GREY, 4))
    assert source.size == count
    assert np.abs(np.array(levels(batches)) - np.arange(0, 200, 10 * every)).max() <= 4
    expected = [f"clip.mp4@00:00:0{n // 10}.{n % 10}00" for n in range(0, 20, every)]
    assert names(batches) == expected


def test_a_frame_is_the_picture_that_ffmpeg_decodes(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", noise(3))
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    (batch,) = Video(path).batches(WHOLE, 9)
    assert torch.equal(
        (batch.images * 255).round().permute(0, 2, 3, 1), torch.from_numpy(np.stack(expected))
    )
    digests = [picture_digest(Image.fromarray(picture)).hex() for picture in expected]
    assert list(batch.ids) == digests


@pytest.mark.parametrize("harmed", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_can_be_taken_up_where_it_stopped(tmp_path: Path, harmed: bool, every: int) -> None:
    path = write(tmp_path / "clip.mp4", noise(40))
    if harmed:
        damaged(path, 0.5, 3000)
    source = Video(path, every=every)
    whole = list(source.batches(GREY, 3))
    assert any(batch.failures for batch in whole) == harmed
    for number, batch in enumerate(whole):
        rest = list(source.batches(GREY, 3, start=batch.end))
        assert [later.end for later in rest] == [later.end for later in whole[number + 1 :]]
        for again, before in zip(rest, whole[number + 1 :], strict=True):
            assert again.names == before.names and again.failures == before.failures
            assert torch.equal(again.images, before.images)


def test_damaged_data_are_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = damaged(write(tmp_path / "clip.mp4", noise(40)), 0.5, 3000)
    batches = list(Video(path).batches(GREY, 4))
    failures = [failure for batch in batches for failure in batch.failures]
    (run,) = (failure for failure in failures if " after " in failure.name)
    assert run.name.startswith("clip.mp4 after 00:00:01.")
    assert run.reason == "cannot be decoded: Invalid data found when processing input"
    marked = [failure for failure in failures if failure != run]
    assert all(failure.reason == "is damaged in the video" for failure in marked)
    assert names(batches)[0] == "clip.mp4@00:00:00.000"
    assert names(batches)[-1] == "clip.mp4@00:00:03.900"
    assert 30 <= len(names(batches)) < 40
    assert batches[-1].end == len(names(batches)) + len(failures)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_off_video_gives_the_frames_it_has(tmp_path: Path, suffix: str) -> None:
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = write(tmp_path / f"clip.{suffix}", noise(40), options=options)
    whole = names(list(Video(path).batches(GREY, 40)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read = names(list(Video(path).batches(GREY, 4)))
    assert 8 <= len(read) <= 25
    assert read == whole[: len(read)]


def test_demuxing_goes_on_after_an_error_but_not_for_ever() -> None:
    class Container:
        """Packets and errors, as a demuxer that can be asked again after an error gives them."""

        def __init__(self, items: list[int | str]) -> None:
            self.items = items

        def demux(self, stream: object) -> Iterator[int]:
            while self.items:
                item = self.items.pop(0)
                if isinstance(item, str):
                    raise av.error.InvalidDataError(1, item)
                yield item

    def packets(*items: int | str) -> list[object]:
        container: Any = Container(list(items))
        found = list(_packets(container, None))  # type: ignore[arg-type]
        return [type(item) if isinstance(item, Exception) else item for item in found]

    error = av.error.InvalidDataError
    assert packets(1, 2, "bad", 3) == [1, 2, error, 3]
    assert packets(1, "bad", 2, "bad", 3) == [1, error, 2, error, 3]
    assert packets(1, *["bad"] * 100, 2) == [1, error, error, None]


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write a rotation"
)
@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_frames_are_turned_as_they_are_to_be_seen(tmp_path: Path, degrees: int) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255  # the left half is white
    path = write(tmp_path / "clip.mp4", [picture] * 2, rotation=degrees)
    (batch,) = Video(path).batches(GREY, 9)
    seen = batch.images[0, 0]
    left, right, top, bottom = seen[:, :24], seen[:, -24:], seen[:24], seen[-24:]
    white = {90: bottom, -90: top, 180: right}[degrees]
    black = {90: top, -90: bottom, 180: left}[degrees]
    assert seen.shape == ((48, 64) if degrees == 180 else (64, 48))
    assert white.mean() > 0.95 and black.mean() < 0.05


def test_pictures_turn_counter_clockwise() -> None:
    picture = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8))
    assert turned(picture, 0) is picture
    assert np.asarray(turned(picture, 90)).tolist() == [[2, 4], [1, 3]]
    assert np.asarray(turned(picture, -90)).tolist() == [[3, 1], [4, 2]]


def test_times_are_written_to_the_millisecond() -> None:
    assert _moment(62_480, Fraction(1, 1000)) == "00:01:02.480"
    assert _moment(3_599_999_6, Fraction(1, 10_000)) == "01:00:00.000"
    assert _moment(100 * 3600 * 25 + 1, Fraction(1, 25)) == "100:00:00.040"
    assert _moment(-40, Fraction(1, 1000)) == "-00:00:00.040"
    assert _moment(None, Fraction(1, 1000)) == _moment(5, None) == ""


def test_frames_without_a_time_are_named_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "clip.mp4", grey(5))
    monkeypatch.setattr("neroli.data.video._moment", lambda pts, time_base: "")
    found = names(list(Video(path, every=2).batches(GREY, 9)))
    assert found == ["clip.mp4@frame 0", "clip.mp4@frame 2", "clip.mp4@frame 4"]


def test_frames_that_preprocessing_refuses_are_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", grey(3))
    crop = Preprocessing(mean=(0.5,), std=(0.5,), crop=100)
    (batch,) = Video(path).batches(crop, 9, start=1)
    assert [failure.name for failure in batch.failures] == [
        "clip.mp4@00:00:00.100",
        "clip.mp4@00:00:00.200",
    ]
    assert "smaller than the crop" in batch.failures[0].reason
    assert len(batch.images) == 0 and batch.end == 3


def test_the_fingerprint_knows_the_file_and_the_step(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", grey(3))
    first = Video(path).fingerprint
    assert first == Video(path).fingerprint
    assert first != Video(path, every=2).fingerprint
    write(path, grey(4))
    assert first != Video(path).fingerprint


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed on Linux")
def test_a_run_that_is_given_up_closes_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", grey(20))

    def is_open() -> bool:
        files = Path("/proc/self/fd").iterdir()
        return any(os.path.realpath(file) == str(path.resolve()) for file in files)

    batches = Video(path).batches(GREY, 2)
    assert not is_open()
    next(batches)
    assert is_open()
    batches.close()  # type: ignore[attr-defined]
    gc.collect()
    assert not is_open()


def test_ffmpeg_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = damaged(write(tmp_path / "clip.mp4", noise(40)), 0.5, 3000)
    list(Video(path).batches(GREY, 9))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a b:c%d.mp4", "http:x.mp4", "ä.mp4", "-.mp4"])
def test_file_names_are_not_taken_for_addresses(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "clip.mp4", grey(2)).rename(tmp_path / name)
    assert names(list(Video(path).batches(GREY, 9)))[0] == f"{name}@00:00:00.000"


def test_what_is_no_video_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4", grey(2))
    for every in (0, -1, 1.5, True, "2"):
        with pytest.raises(InvalidInput, match="every must be an integer of at least 1, got"):
            Video(path, every=every)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="There is no video file '.*gone.mp4'"):
        Video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InvalidInput, match="text.mp4' cannot be read as a video: Invalid data"):
        Video(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(InvalidInput, match="empty.mp4' cannot be read as a video"):
        Video(tmp_path / "empty.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InvalidInput, match="sound.mp4' has no video in it"):
        Video(tmp_path / "sound.mp4")
    with pytest.raises(InvalidInput, match="preprocessing"):
        next(Video(path).batches(None, 1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidInput, match=r"needs PyAV: install neroli with its \[video\] extra"):
        Video(path)
