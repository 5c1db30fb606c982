"""ImageNet and OpenMIBOOD-style folders by name: ID and OOD sets that come apart."""

from pathlib import Path

import pytest

from layouts import folders_of, ood_of, write_classes, write_images, write_wnids
from neroli.data import named
from neroli.data.named import imagenet
from neroli.errors import InvalidInput


@pytest.fixture(scope="module")
def imagenet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_wnids(root / "imagenet" / "val", 1_000)
    write_images(root / "imagenet" / "iNaturalist" / "images", 3)
    write_images(root / "dtd" / "images" / "banded", 2)
    write_images(root / "dtd" / "labels_as_pictures", 1)
    write_images(root / "SUN", 1)
    return root


def test_imagenet_numbers_sorted_wnids_and_finds_the_sets_beside(imagenet_root: Path) -> None:
    data = named.load("imagenet", imagenet_root)
    assert data.class_names == sorted(data.class_names)
    assert folders_of(data, "val") == {(w, index) for index, w in enumerate(data.class_names)}
    assert ood_of(data) == [("iNaturalist", "far", 3), ("SUN", "far", 1), ("Textures", "far", 2)]
    assert "imagenet val has 1,000 of 50,000 images." in data.remarks
    assert "Textures has 2 of 5,640 images." in data.remarks
    assert any(remark.startswith("There is no Places") for remark in data.remarks)
    assert len(named.load("imagenet", imagenet_root / "imagenet").ood_sets) == 1


def test_imagenet_without_all_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lacks 1 folder, 'val'"):
        named.load("imagenet", tmp_path)
    write_images(tmp_path / "val", 3, ".JPEG")
    with pytest.raises(InvalidInput, match="0 of 1,000 class folders.*val itself must be sorted"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "val", 998)
    for path in (tmp_path / "val").glob("*.JPEG"):
        path.unlink()
    with pytest.raises(InvalidInput, match="998 of 1,000 class folders"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "train", 1_000)
    with pytest.raises(InvalidInput, match="lacks 2 folders, 'n00000998', 'n00000999'"):
        named.load("imagenet", tmp_path)
    write_wnids(tmp_path / "val", imagenet.CLASSES)
    assert named.load("imagenet", tmp_path).id_sets.keys() == {"val", "train"}


# OpenMIBOOD


def test_openmibood_folders_are_id_shifted_near_and_far(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "bench" / "id" / split, ("mitosis", "imposter"))
    write_images(tmp_path / "bench" / "csid" / "scanner" / "mitosis" / "slide", 3)
    write_images(tmp_path / "bench" / "near" / "lymphoma" / "deep" / "down", 4)
    write_images(tmp_path / "bench" / "far" / "ccagt", 1)
    write_images(tmp_path / "bench" / "far" / "fnac", 2)
    data = named.load("openmibood", tmp_path)
    assert data.class_names == ["imposter", "mitosis"]
    assert data.id_sets.keys() == {"train", "test", "csid/scanner"}
    assert folders_of(data, "test") == {("imposter", 0), ("mitosis", 1)}
    assert data.id_sets["csid/scanner"].labels == [1, 1, 1]
    assert ood_of(data) == [("lymphoma", "near", 4), ("ccagt", "far", 1), ("fnac", "far", 2)]
    assert data.remarks == []


def test_openmibood_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lacks 1 folder, 'id': openmibood is"):
        named.load("openmibood", tmp_path)
    write_classes(tmp_path / "id", ("a", "b"))
    with pytest.raises(InvalidInput, match="lacks 2 folders, 'near', 'far'"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "far")
    with pytest.raises(InvalidInput, match="no folder of a set"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "far" / "x")
    data = named.load("openmibood", tmp_path)
    assert folders_of(data) == {("a", 0), ("b", 1)}
    assert data.remarks[0].startswith("There is no near OOD set")
    write_images(tmp_path / "csid" / "other" / "c")
    with pytest.raises(InvalidInput, match="'c', which is none of the classes"):
        named.load("openmibood", tmp_path)
    write_images(tmp_path / "id" / "train" / "a")
    with pytest.raises(InvalidInput, match="both 'train' and 'a'"):
        named.load("openmibood", tmp_path)


def test_openmibood_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "id" / "train", ("a", "b"))
    write_classes(tmp_path / "id" / "test", ("a",))
    write_images(tmp_path / "near" / "x")
    with pytest.raises(InvalidInput, match="test' lacks 1 folder, 'b'"):
        named.load("openmibood", tmp_path)


# The registry
