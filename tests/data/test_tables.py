"""Tables of image files, and splits of them that keep patients whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli.data.folders import ImageFiles, ImageFolder
from neroli.data.splitting import split
from neroli.data.tables import Columns, ImageTable, write_table
from neroli.errors import InvalidInput, NotEnoughImages
from networks import COLOURS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 pictures of 12 patients, of whom each has five pictures of all classes."""
    write_pictures(tmp_path / "images", 60, seed=1)
    paths = sorted((tmp_path / "images").rglob("*.png"), key=lambda path: path.name)
    rows = [
        f"images/{path.parent.name}/{path.name},{path.parent.name},00{number // 5}"
        for number, path in enumerate(paths)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,group", *rows]))
    return tmp_path / "table.csv"


def test_a_table_yields_its_files_with_labels_and_groups(table: Path) -> None:
    source = ImageTable(table)
    assert len(source) == 60
    assert source.names[7] == "images/green/0007.png"
    assert source.label_names() == list(COLOURS)
    assert source.groups is not None
    assert source.groups[:6] == ["000"] * 5 + ["001"]  # text, not numbers
    known = source.labelled({name: index for index, name in enumerate(COLOURS)})
    folder = ImageFolder(table.parent / "images")
    batches = list(known.batches(COLOUR_PREPROCESSING, 60))
    (plain,) = folder.batches(COLOUR_PREPROCESSING, 60)
    by_id = dict(zip(plain.ids, plain.images, strict=True))
    for identity, image in zip(batches[0].ids, batches[0].images, strict=True):
        assert torch.equal(image, by_id[identity])
    assert batches[0].labels is not None and batches[0].groups is not None
    assert [COLOURS[label] for label in batches[0].labels] == [
        name.split("/")[1] for name in batches[0].names
    ]
    assert len(batches[0].groups.unique(dim=0)) == 12
    assert not any(b"001" in bytes(row.numpy()) for row in batches[0].groups)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_what_is_written_is_read_again_also_from_another_folder(table: Path, suffix: str) -> None:
    source = ImageTable(table)
    path = table.parent / "elsewhere" / f"copy{suffix}"
    columns = Columns(path="file", label="diagnosis", group="patient, if known")
    write_table(path, source, columns)
    again = ImageTable(path, columns)
    assert again.stated_labels == source.stated_labels
    assert again.groups == source.groups
    expected = next(source.batches(COLOUR_PREPROCESSING, 60)).ids
    assert next(again.batches(COLOUR_PREPROCESSING, 60)).ids == expected


def test_numbers_in_a_parquet_table_are_labels_too(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, seed=1, by_class=False)
    content = {"path": [f"000{i}.png" for i in range(3)], "label": [0, 1, 2]}
    pa.parquet.write_table(pa.table(content), tmp_path / "t.parquet")
    source = ImageTable(tmp_path / "t.parquet")
    assert source.stated_labels == ["0", "1", "2"]
    assert source.groups is None


BAD = {
    "no path column": ("file,label\na.png,x\n", Columns(), "no column 'path'; it has 'file'"),
    "no such group": ("path\na.png\n", Columns(group="patient"), "no column 'patient'"),
    "an empty label": ("path,label\na.png,x\nb.png,\n", Columns(), "Row 2 .* has no 'label'"),
    "ragged": ("path,label\na.png\n", Columns(), "Cannot read the table"),
    "empty": ("", Columns(), "Cannot read the table"),
}


@pytest.mark.parametrize(("content", "columns", "message"), BAD.values(), ids=BAD)
def test_tables_that_cannot_be_used_are_refused(
    tmp_path: Path, content: str, columns: Columns, message: str
) -> None:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        ImageTable(tmp_path / "table.csv", columns)


def test_a_table_without_rows_and_a_missing_or_binary_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("path,label\n")
    with pytest.raises(NotEnoughImages, match="no image"):
        ImageTable(tmp_path / "table.csv")
    with pytest.raises(InvalidInput, match="Cannot read the table"):
        ImageTable(tmp_path / "gone.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InvalidInput, match="Cannot read the table"):
        ImageTable(tmp_path / "t.parquet")
    (tmp_path / "bytes.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(InvalidInput, match="Cannot read the table"):
        ImageTable(tmp_path / "bytes.csv")


def test_a_file_that_is_missing_is_a_failure_of_its_row(table: Path) -> None:
    (table.parent / "images" / "blue" / "0000.png").unlink()
    (batch,) = ImageTable(table).batches(COLOUR_PREPROCESSING, 60)
    assert [failure.name for failure in batch.failures] == ["images/blue/0000.png"]
    assert len(batch.images) == 59


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_split_keeps_groups_whole_and_classes_in_proportion(
    table: Path, share: float, seed: int
) -> None:
    source = ImageTable(table)
    training, held_out = split(source, share, seed)
    assert training.groups is not None and held_out.groups is not None
    assert not set(training.groups) & set(held_out.groups)
    assert sorted(training.names + held_out.names) == sorted(source.names)
    assert abs(len(held_out) / 60 - share) <= 1 / 24  # half a group
    assert held_out.stated_labels is not None
    counts = np.unique(held_out.stated_labels, return_counts=True)[1]
    assert len(counts) == 3
    assert np.abs(counts / 20 - share).max() <= 0.15
    again = split(source, share, seed)
    assert again[1].names == held_out.names
    assert held_out.names == [name for name in source.names if name in set(held_out.names)]


def test_images_without_groups_are_split_by_class(table: Path) -> None:
    source = ImageFolder(table.parent / "images")
    training, held_out = split(source, 0.2)
    assert (len(training), len(held_out)) == (48, 12)
    assert held_out.stated_labels is not None
    assert np.unique(held_out.stated_labels, return_counts=True)[1].tolist() == [4, 4, 4]


def test_splits_that_cannot_be_are_refused(table: Path) -> None:
    source = ImageTable(table)
    with pytest.raises(InvalidInput, match="between 0 and 1, got 1.5"):
        split(source, 1.5)
    paths = [table.parent / name for name in source.names]
    with pytest.raises(NotEnoughImages, match="The 1 groups of these 60 images are too few"):
        split(ImageFiles(paths, groups=["ann"] * 60))
    with pytest.raises(NotEnoughImages, match="These 2 images of 2 classes cannot be split"):
        split(ImageFiles(paths[:2], labels=[0, 1]))
