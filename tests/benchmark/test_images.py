"""From suites and data folders to images, in every layout; what is said when they are absent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from layouts import (
    ID_GASTRO,
    write_arrays,
    write_cifar_downloads,
    write_classes,
    write_images,
    write_medical_tar,
    write_wnids,
)
from neroli.benchmark.images import (
    BenchmarkImages,
    benchmark_images,
    pretrained_file,
    weights_file,
)
from neroli.benchmark.suite import own_suite, read_suite, with_model
from neroli.data.named import gastro
from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize=(8, 8))


def outside(images: BenchmarkImages) -> list[tuple[str, str | None, int]]:
    assert all(each.images.labels is None for each in images.ood)
    assert all(each.images.stated_labels is None for each in images.ood)
    return [(each.name, each.nearness, len(each.images)) for each in images.ood]


def counts(images: BenchmarkImages) -> tuple[int, int | None, int]:
    held_out = None if images.calibration is None else len(images.calibration)
    return len(images.train), held_out, len(images.test)


def readable(images: Pictures) -> int:
    return sum(len(batch.images) for batch in images.batches(PLAIN, 16))


def test_the_usual_downloads_of_cifar_are_found(tmp_path: Path) -> None:
    write_cifar_downloads(tmp_path)
    images = benchmark_images(read_suite("cifar10-resnet20"), tmp_path)
    assert counts(images) == (10, None, 3)
    assert images.class_names is not None and images.class_names[-1] == "truck"
    assert images.test.labels == [3, 8, 0]
    assert outside(images) == [
        ("cifar100", "near", 3),  # every second of five
        ("tiny-imagenet", "near", 4),
        ("mnist", "far", 6),
        ("medical-mnist", "far", 4),
    ]
    assert images.ood[0].images.names == ["test.bin/0", "test.bin/2", "test.bin/4"]
    assert "cifar10 test has 3 of 10,000 images." in images.remarks
    assert [readable(each.images) for each in images.ood] == [3, 4, 6, 4]
    images = benchmark_images(read_suite("cifar100-densenet"), tmp_path)
    assert counts(images) == (2, None, 5)
    assert outside(images)[0] == ("cifar10", "near", 2)


def test_data_may_lie_in_a_folder_data_beside_the_models(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_arrays(tmp_path / "data" / "cifar10_train10k.npz", [0, 1, 2])
    write_arrays(tmp_path / "data" / "cifar10_test.npz", [3, 4])
    write_arrays(tmp_path / "data" / "cifar100_test.npz", [5, 6, 7])
    np.savez(tmp_path / "data" / "mnist.npz", test_images=np.zeros((4, 28, 28), np.uint8))
    write_medical_tar(tmp_path / "data" / "medical_mnist.tar", 1)
    write_medical_tar(tmp_path / "data" / "tiny_imagenet_3000.tar", 2)
    weights = tmp_path / "models" / "resnet20-12fca82f.th"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    suite = read_suite("cifar10-resnet20")
    images = benchmark_images(suite, tmp_path)
    assert counts(images) == (3, None, 2)
    assert [count for _, _, count in outside(images)] == [2, 12, 4, 6]
    assert weights_file(suite, tmp_path) == weights


@pytest.mark.parametrize("suite", ["kvasir-v2", "kvasir-v2-deit-s"])
def test_kvasir_is_split_and_all_its_diseases_are_one_set(tmp_path: Path, suite: str) -> None:
    write_classes(tmp_path / "kvasir-dataset-v2", gastro.KVASIR.classes, 10)
    write_classes(tmp_path / "Gastrovision", gastro.GASTROVISION.classes, 2)  # has such classes too
    images = benchmark_images(read_suite(suite), tmp_path)
    assert images.class_names == ["normal-cecum", "normal-pylorus", "normal-z-line"]
    assert counts(images) == (18, 6, 6)
    assert images.calibration is not None
    for part, each in ((images.train, 6), (images.calibration, 2), (images.test, 2)):
        assert [part.labels.count(index) for index in range(3)] == [each] * 3  # type: ignore[union-attr]
    names = [*images.train.names, *images.calibration.names, *images.test.names]
    assert len(set(names)) == 30
    assert outside(images) == [("disease", "near", 50)]
    folders = {name.split("/")[0] for name in images.ood[0].images.names}
    assert folders == set(gastro.KVASIR.ood_classes)
    assert readable(images.ood[0].images) == 50
    assert pretrained_file(read_suite(suite), tmp_path) is None


@pytest.mark.parametrize("suite", ["gastrovision", "gastrovision-deit-s"])
def test_gastrovision_has_eleven_classes(tmp_path: Path, suite: str) -> None:
    write_classes(tmp_path / "Gastrovision", gastro.GASTROVISION.classes, 5)
    images = benchmark_images(read_suite(suite), tmp_path)
    assert images.class_names == list(ID_GASTRO)
    assert counts(images) == (33, 11, 11)
    assert outside(images) == [("disease", "near", 80)]


def test_weights_to_begin_with_are_taken_if_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "resnet18-f37072fd.pth"
    file.write_bytes(b"")
    assert pretrained_file(read_suite("kvasir-v2"), tmp_path) == file
    assert pretrained_file(read_suite("medical-mnist"), tmp_path) is None
    assert weights_file(read_suite("kvasir-v2"), tmp_path) is None


def test_medical_mnist_is_split_by_seed(tmp_path: Path) -> None:
    write_medical_tar(tmp_path / "medical_mnist.tar", 10)
    suite = read_suite("medical-mnist")
    images = benchmark_images(suite, tmp_path)
    assert counts(images) == (24, 8, 8)
    assert outside(images) == [("BreastMRI", "near", 10), ("Hand", "near", 10)]
    again = benchmark_images(suite, tmp_path)
    assert again.test.names == images.test.names
    other = benchmark_images(suite.model_copy(update={"seed": 1}), tmp_path)
    assert other.test.names != images.test.names


def test_the_digits_need_no_folder(tmp_path: Path) -> None:
    images = benchmark_images(read_suite("digits"))
    assert counts(images) == (632, 316, 316)
    assert outside(images) == [
        ("digits 7-9", "near", 533),
        ("corrupted", "far", 316),
        ("photographs", "far", 300),
    ]
    assert counts(benchmark_images(read_suite("digits"), tmp_path)) == (632, 316, 316)


@pytest.mark.parametrize("suite", ["cifar-line", "cifar100-line"])
def test_line_sets_lie_as_in_the_programs_of_odin_and_dice(tmp_path: Path, suite: str) -> None:
    write_cifar_downloads(tmp_path)
    ood = tmp_path / "ood_datasets"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 7), np.uint8)
    (ood / "svhn").mkdir(parents=True)
    savemat(ood / "svhn" / "test_32x32.mat", {"X": pixels, "y": np.full((7, 1), 10)})
    for name in ("LSUN/test", "LSUN_resize/LSUN_resize", "iSUN", "dtd/images/dotted"):
        write_images(ood / name, 3)
    write_images(ood / "places365" / "test_subset", 5)
    images = benchmark_images(read_suite(suite), tmp_path)
    assert outside(images) == [
        ("SVHN", "far", 7),
        ("LSUN-C", "far", 3),
        ("LSUN-R", "far", 3),
        ("iSUN", "far", 3),
        ("Textures", "far", 3),
        ("Places365", "far", 5),
    ]
    savemat(ood / "svhn" / "selected_test_32x32.mat", {"X": pixels[..., :2]})
    assert outside(benchmark_images(read_suite(suite), tmp_path))[0] == ("SVHN", "far", 2)


def test_imagenet_has_its_four_sets_beside_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_wnids(tmp_path / "imagenet" / split, 1000)
    for name in ("iNaturalist/images", "SUN/images", "Places/images", "dtd/images/dotted"):
        write_images(tmp_path / name, 2)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "resnet50-0676ba61.pth").write_bytes(b"")
    images = benchmark_images(read_suite("imagenet-line"), tmp_path)
    assert counts(images) == (1000, None, 1000)
    assert outside(images) == [
        (name, "far", 2) for name in ("iNaturalist", "SUN", "Places", "Textures")
    ]


def test_openmibood_takes_every_set_with_its_nearness(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "id" / split, ("a", "b"))
    for place in ("near/scanner", "far/cats", "far/dogs"):
        write_images(tmp_path / place, 3)
    suite = read_suite("openmibood")
    images = benchmark_images(suite, tmp_path)
    assert counts(images) == (4, None, 4)
    assert outside(images) == [("scanner", "near", 3), ("cats", "far", 3), ("dogs", "far", 3)]
    with pytest.raises(InvalidInput, match="for a model of your own: name it with --model"):
        weights_file(suite, tmp_path)
    (tmp_path / "w.pth").write_bytes(b"")
    given = with_model(suite, "timm:resnet18", tmp_path / "w.pth")
    assert weights_file(given, tmp_path) == tmp_path / "w.pth"


def test_own_folders_need_no_data_folder(tmp_path: Path) -> None:
    write_classes(tmp_path / "id", ("a", "b"), 20)
    write_images(tmp_path / "new", 3)
    suite = own_suite("timm:resnet18", None, tmp_path / "id", [("far", tmp_path / "new")])
    images = benchmark_images(suite)
    assert counts(images) == (20, 8, 12)
    assert images.class_names is None
    assert images.train.labels is None and images.train.label_names() == ["a", "b"]
    assert outside(images) == [("new", "far", 3)]
    assert weights_file(suite) is None


def test_patients_are_not_split(tmp_path: Path) -> None:
    rows = ["path,label,group"]
    write_images(tmp_path, 40, ".png")
    rows += [f"{number}.png,{'ab'[number % 2]},patient {number // 4}" for number in range(40)]
    (tmp_path / "images.csv").write_text("\n".join(rows))
    suite = own_suite("timm:resnet18", None, tmp_path / "images.csv", [("far", tmp_path)])
    images = benchmark_images(suite)
    assert images.calibration is not None
    groups = [set(part.groups or ()) for part in (images.train, images.calibration, images.test)]
    assert sum(map(len, groups)) == 10 and len(set.union(*groups)) == 10
    assert counts(images) == (20, 8, 12)


def test_paths_are_relative_to_the_data_folder_or_else_to_the_suite_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "suite.toml").write_text(
        'name = "x"\n[model]\nspec = "timm:resnet18"\nweights = "w.pth"\n'
        '[id]\ntrain = "train"\ntest = "train"\n'
        '[[ood]]\nname = "o"\nnearness = "far"\nevery = 2\nimages = {path = "new", every = 2}\n'
    )
    (tmp_path / "a" / "w.pth").write_bytes(b"")
    for folder, count in (("a", 1), ("b", 9)):
        write_classes(tmp_path / folder / "train", ("one", "two"), count)
        write_images(tmp_path / folder / "new", count)
    suite = read_suite(tmp_path / "a" / "suite.toml")
    assert counts(benchmark_images(suite)) == (2, None, 2)
    images = benchmark_images(suite, tmp_path / "b")
    assert counts(images) == (18, None, 18)
    assert outside(images) == [("o", "far", 3)]  # every fourth of nine
    assert weights_file(suite, tmp_path / "b") == tmp_path / "a" / "w.pth"


# The real data


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "parts", "first"),
    [
        ("cifar10-resnet20", (10_000, None, 10_000), "cifar100"),
        ("cifar10-densenet", (10_000, None, 10_000), "cifar100"),
        ("cifar100-densenet", (5_000, None, 10_000), "cifar10"),
    ],
)
def test_the_cifar_suites_run_on_the_shared_folder(
    shared: Path, name: str, parts: tuple[int, None, int], first: str
) -> None:
    suite = read_suite(name)
    images = benchmark_images(suite, shared)
    assert counts(images) == parts
    assert outside(images) == [
        (first, "near", 5_000),
        ("tiny-imagenet", "near", 3_000),
        ("mnist", "far", 3_000),
        ("medical-mnist", "far", 6_000),
    ]
    with np.load(shared / "data" / f"{first}_test.npz") as file:
        _, picture = images.ood[0].images.reader.read(images.ood[0].images.rows[1])
        assert np.array_equal(np.asarray(picture), file["images"][2])
    assert weights_file(suite, shared) == shared / "models" / (
        {"cifar10-resnet20": "cifar10_resnet20"}.get(name, f"{name}100") + ".safetensors"
    ).replace("-", "_")


@pytest.mark.realdata
def test_medical_mnist_runs_on_the_shared_folder(shared: Path) -> None:
    images = benchmark_images(read_suite("medical-mnist"), shared)
    assert counts(images) == (2_400, 800, 800)
    assert outside(images) == [("BreastMRI", "near", 1_000), ("Hand", "near", 1_000)]
    assert images.class_names == ["AbdomenCT", "CXR", "ChestCT", "HeadCT"]
    assert images.test.labels is not None
    assert np.bincount(images.test.labels).tolist() == [200] * 4
    _, picture = images.test.reader.read(images.test.rows[0])
    assert isinstance(picture, Image.Image) and picture.size == (64, 64)
