"""Corrupted pictures stand in for OOD data: spoiled, but repeatable and of the same form."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli import Preprocessing
from neroli.data.arrays import picture_digest
from neroli.data.corruptions import KINDS, CorruptedReader, Corruption, corrupted
from neroli.data.folders import ImageFolder
from neroli.data.pictures import Pictures
from neroli.errors import UnreadableImage

EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def scene(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture with coarse structure and fine grain, as photographs have."""
    draw = np.random.default_rng(seed)
    channels = 3 if mode == "RGB" else 1
    coarse = draw.integers(0, 256, (8, 8, channels), np.uint8)
    images = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BILINEAR)
        for c in range(channels)
    ]
    pixels = np.stack([np.asarray(image) for image in images], axis=2) * 0.8
    pixels = (pixels + draw.integers(0, 40, pixels.shape)).astype(np.uint8)
    return Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])


class InMemory:
    """A reader of pictures in memory; None stands for one that cannot be read."""

    content = "file"

    def __init__(self, images: list[Image.Image | None]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def stamp(self, position: int) -> str:
        return f"picture {position}"

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        image = self.images[position]
        if image is None:
            raise UnreadableImage("is torn")
        return picture_digest(image), image


def pixels_of(pictures: Pictures, size: int = 7) -> Iterator[tuple[str, bytes]]:
    for batch in pictures.batches(Preprocessing((0.5,) * 3, (0.25,) * 3), size):
        for name, image in zip(batch.names, batch.images, strict=True):
            yield name, image.numpy().tobytes()


@EACH
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (31, 50), (1000, 700)])
def test_size_and_mode_stay_and_the_picture_does_not(
    kind: Corruption, mode: str, size: tuple[int, int]
) -> None:
    picture = scene(*size, mode)
    before = picture.tobytes()
    changed = kind(picture, np.random.default_rng(0))
    assert (changed.size, changed.mode) == (size, mode)
    assert changed.tobytes() != before
    assert picture.tobytes() == before, "the original is left as it is"


@EACH
@pytest.mark.parametrize("size", [8, 32, 1000])
def test_every_corruption_is_strong_whatever_the_size(kind: Corruption, size: int) -> None:
    """Also once a network has brought it to 64 pixels: a tenth of the range on average."""
    picture = scene(size, size)
    changed = kind(picture, np.random.default_rng(0))
    seen = [np.asarray(p.resize((64, 64)), dtype=float) for p in (picture, changed)]
    assert np.abs(seen[0] - seen[1]).mean() > 25


def test_negative_noise_and_fading_by_hand() -> None:
    grey = Image.fromarray(np.array([[0, 100], [200, 60]], np.uint8))
    negative, faded = (kind for kind in KINDS if kind.__name__ in ("negative", "faded"))
    assert np.asarray(negative(grey, None)).tolist() == [[255, 155], [55, 195]]
    assert np.asarray(faded(grey, None)).tolist() == [[81, 91], [101, 87]]  # mean 90
    noise = KINDS[0](Image.new("L", (600, 600), 128), np.random.default_rng(0))
    values = np.asarray(noise, dtype=float)
    assert (values[:9, :9] == values[0, 0]).all(), "a grain is 600 // 64 pixels wide"
    grains = values[::9, ::9]
    inside = (grains > 0) & (grains < 255)
    assert inside.mean() == pytest.approx(0.89, abs=0.02)  # |N(0, 80)| < 127.5
    assert grains.mean() == pytest.approx(128, abs=5)


def test_a_jigsaw_has_the_same_sixteen_pieces() -> None:
    picture = scene(32, 16)
    jigsaw = next(kind for kind in KINDS if kind.__name__ == "jigsaw")
    changed = jigsaw(picture, np.random.default_rng(0))

    def pieces(image: Image.Image) -> list[bytes]:
        array = np.asarray(image)
        parts = [array[y : y + 4, x : x + 8] for y in range(0, 16, 4) for x in range(0, 32, 8)]
        return [part.tobytes() for part in parts]

    assert pieces(changed) != pieces(picture)
    assert sorted(pieces(changed)) == sorted(pieces(picture))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    mode=st.sampled_from(["L", "RGB"]),
    plain=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_no_picture_is_left_as_it_was(
    width: int, height: int, mode: str, plain: bool, seed: int
) -> None:
    """Not even one of a single pixel or colour."""
    colour = seed % 256 if mode == "L" else (seed % 256, 0, 127)
    size = (width, height)
    picture = Image.new(mode, size, colour) if plain else scene(*size, mode, seed)
    reader = CorruptedReader(InMemory([picture]), seed)
    content, changed = reader.read(0)
    assert (changed.size, changed.mode) == (picture.size, mode)
    assert changed.tobytes() != picture.tobytes()
    assert content == picture_digest(changed) == reader.read(0)[0]


@pytest.fixture
def files(tmp_path: Path) -> ImageFolder:
    return ImageFolder(write_pictures(tmp_path, 60, seed=5))


def test_neither_order_nor_workers_nor_batches_matter(files: ImageFolder) -> None:
    known = dict(pixels_of(corrupted(files, 3)))
    assert len(known) == 60
    backwards = files.subset(range(len(files))[::-1])
    backwards.workers = 1
    assert dict(pixels_of(corrupted(backwards, 3), 60)) == known
    assert dict(pixels_of(corrupted(files, 3).subset([50, 4]))).items() <= known.items()


def test_another_seed_gives_other_pictures_and_another_fingerprint(files: ImageFolder) -> None:
    one, other = corrupted(files, 0), corrupted(files, 1)
    assert len({files.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert one.fingerprint == corrupted(files, 0).fingerprint
    differ = [a != b for a, b in zip(pixels_of(one), pixels_of(other), strict=True)]
    assert np.mean(differ) > 0.7  # of six kinds, some are the same again


def test_names_labels_and_their_classes_are_those_of_the_originals(files: ImageFolder) -> None:
    changed = corrupted(files)
    assert type(changed) is ImageFolder
    assert (changed.names, changed.stated_labels) == (files.names, files.stated_labels)
    originals = {bytes(d) for b in files.batches(COLOUR_PREPROCESSING, 60) for d in b.digests}
    spoiled = {bytes(d) for b in changed.batches(COLOUR_PREPROCESSING, 60) for d in b.digests}
    assert len(spoiled) == 60 and not originals & spoiled


def test_all_kinds_occur_about_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[int] = []

    def noted(number: int) -> Corruption:
        def kind(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
            met.append(number)
            return picture

        return kind

    kinds = tuple(noted(number) for number in range(len(KINDS)))
    monkeypatch.setattr("neroli.data.corruptions.KINDS", kinds)
    reader = CorruptedReader(InMemory([scene(8, 8, seed=i) for i in range(600)]), 0)
    for position in range(600):
        reader.read(position)
    counts = np.bincount(met, minlength=len(KINDS))
    assert counts.min() > 70  # 100 expected, with a standard deviation of 9


def test_an_unreadable_picture_stays_unreadable_for_the_same_reason() -> None:
    pictures = Pictures(InMemory([scene(8, 8), None]), ["good", "torn"])
    (batch,) = corrupted(pictures).batches(COLOUR_PREPROCESSING, 2)
    assert batch.names == ("good",)
    assert [(failure.name, failure.reason) for failure in batch.failures] == [("torn", "is torn")]
