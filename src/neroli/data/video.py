"""Videos as a source: their frames in order, named by when they are shown.

Frames are turned as the video says they are to be shown; their pixels are taken to be square. A
frame that the decoder marks as damaged is unreadable, and each run of data that it cannot decode
counts as one unreadable image, named after the last frame before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from neroli.data.arrays import picture_digest
from neroli.data.folders import stamp
from neroli.data.images import MAX_PIXELS
from neroli.data.pictures import Loaded, loaded_batch, sized
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import NO_PREPROCESSING, Content, ImageBatch
from neroli.errors import InvalidInput, UnreadableImage
from neroli.files import text_digest

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer


class Video:
    """Frames of a video, decoded one after the other.

    Args:
        path: a file that FFmpeg reads.
        every: only every n-th frame is taken, beginning with the first.

    Raises:
        InvalidInput: if ``every`` is no positive integer, the file is missing or no video, or PyAV
            is not installed.
    """

    content: Content = "picture"

    def __init__(self, path: Path | str, *, every: int = 1) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise InvalidInput(f"every must be an integer of at least 1, got {every!r}.")
        self.path = Path(path)
        self.every = every
        with _opened(self.path) as (_, stream):
            self._frames = stream.frames

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path.name!r}, every={self.every})"

    @property
    def fingerprint(self) -> str:
        return text_digest([f"{self.path.name} {stamp(self.path)} every {self.every}"])

    @property
    def size(self) -> int | None:
        """How many images there are if the file is right about itself; None if it does not say."""
        return -(-self._frames // self.every) if self._frames > 0 else None

    def batches(
        self,
        preprocessing: Preprocessing | None,
        batch_size: int,
        start: int = 0,
        shape: Sequence[int] | None = None,
    ) -> Iterator[ImageBatch]:
        if preprocessing is None:
            raise InvalidInput(NO_PREPROCESSING)
        names: list[str] = []
        loaded: list[Loaded] = []
        end = 0
        for name, frame in self._kept():
            end += 1
            if end <= start and shape is not None:
                continue
            try:
                picture = _picture(frame)
                pixels = sized(preprocessing.pixels(picture), shape)
                shape = pixels.shape
                item: Loaded = (picture_digest(picture), pixels)
            except UnreadableImage as error:
                item = str(error)
            if end <= start:
                continue
            names.append(name)
            loaded.append(item)
            if len(loaded) == batch_size:
                yield loaded_batch(preprocessing, loaded, names, None, None, end)
                names, loaded = [], []
        if loaded:
            yield loaded_batch(preprocessing, loaded, names, None, None, end)

    def _kept(self) -> Iterator[tuple[str, VideoFrame | str]]:
        """The names of every n-th frame and the frames, and why data in between are unreadable."""
        from av.error import FFmpegError

        number, moment, damaged = 0, "", False
        with _opened(self.path) as (container, stream):
            for packet in _packets(container, stream):
                try:
                    if isinstance(packet, Exception):
                        raise packet
                    frames = stream.decode(packet)
                except FFmpegError as error:
                    if not damaged:  # the first of a run
                        where = f"after {moment}" if moment else "at its start"
                        yield f"{self.path.name} {where}", f"cannot be decoded: {error.strerror}"
                    damaged = True
                    continue
                for frame in frames:
                    damaged = False
                    moment = _moment(frame.pts, frame.time_base) or f"frame {number}"
                    if number % self.every == 0:
                        yield f"{self.path.name}@{moment}", frame
                    number += 1


def _picture(frame: Any) -> Image.Image:
    """A frame as it is to be seen, in mode RGB."""
    if isinstance(frame, str):
        raise UnreadableImage(frame)
    if frame.is_corrupt:
        raise UnreadableImage("is damaged in the video")
    if frame.width * frame.height > MAX_PIXELS:
        raise UnreadableImage(
            f"is {frame.width}x{frame.height} pixels, more than the {MAX_PIXELS:,} allowed"
        )
    return turned(frame.to_image(), frame.rotation)


def turned(picture: Image.Image, degrees: int) -> Image.Image:
    """A picture turned counter-clockwise, without loss by quarter turns."""
    return picture.rotate(degrees, expand=True) if degrees % 360 else picture


def _moment(pts: int | None, time_base: Fraction | None) -> str:
    """When a frame is shown, as ``hh:mm:ss.mmm``; empty if it does not say."""
    if pts is None or time_base is None:
        return ""
    milliseconds = round(pts * time_base * 1000)
    minutes, rest = divmod(abs(milliseconds), 60_000)
    sign = "-" if milliseconds < 0 else ""
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Any]:
    """The packets of a stream, an error where one cannot be read, and at the end a flush."""
    from av.error import FFmpegError

    failed = False
    while True:
        try:
            for packet in container.demux(stream):
                failed = False
                yield packet
            return
        except FFmpegError as error:
            yield error
            if failed:  # twice in a row, so no more will come
                yield None
                return
            failed = True


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video's container and first video stream, closed at the end.

    Raises:
        InvalidInput: if there is none.
    """
    try:
        import av
    except ImportError:
        raise InvalidInput(
            "Reading videos needs PyAV: install neroli with its [video] extra."
        ) from None
    if not path.is_file():
        raise InvalidInput(f"There is no video file {str(path)!r}.")
    try:  # the prefix and the list keep names and playlists from reaching for the network
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"{str(path)!r} cannot be read as a video: {reason}.") from None
    with container:
        if not container.streams.video:
            raise InvalidInput(f"{str(path)!r} has no video in it, only other streams.")
        yield container, container.streams.video[0]
