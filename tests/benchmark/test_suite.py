"""Suite files: what they may say, and how a wrong key is named."""

import tomllib
from pathlib import Path

import pytest

from layouts import write_classes, write_images
from neroli.benchmark.suite import (
    builtin_names,
    describe,
    own_suite,
    read_suite,
    with_model,
)
from neroli.data.preprocessing import Preprocessing
from neroli.detectors import LINe, catalogue, create
from neroli.errors import InvalidInput

SMALL = """
name = "small"
[model]
spec = "networks:colour_network"
weights = "weights.safetensors"
[id]
train = "train"
test = ["test", "validation"]
[[ood]]
name = "new"
nearness = "near"
images = "new"
[[ood]]
name = "digits"
nearness = "far"
images = { dataset = "digits", part = "test", every = 3 }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, old: str, new: str) -> str:
    """What is said of the small suite with a part of it replaced, after the name of its file."""
    assert SMALL.count(old) == 1
    path = write(folder, SMALL.replace(old, new))
    with pytest.raises(InvalidInput) as error:
        read_suite(path)
    name, _, said = str(error.value).partition("suite.toml: ")
    assert name == f"{folder}/"
    return said


def test_a_suite_says_model_images_and_detectors(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, SMALL))
    assert suite.name == "small" and suite.seed == 0
    assert suite.model.weights == ("weights.safetensors",)
    assert suite.id.train is not None and suite.id.train.path == ("train",)
    assert suite.id.test is not None and suite.id.test.path == ("test", "validation")
    assert [(each.name, each.nearness) for each in suite.ood] == [
        ("new", "near"),
        ("digits", "far"),
    ]
    assert suite.ood[1].images.every == 3


@pytest.mark.parametrize("name", builtin_names())
def test_every_builtin_suite_can_be_read_and_says_what_it_needs(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name and suite.about.strip()
    text = describe(name)
    assert text.startswith(f"{name}: ")
    assert ("--data" in text) == (name != "digits")
    for each in (suite.id.train, suite.id.all, *(ood.images for ood in suite.ood)):
        assert each is None or each.dataset == "digits" or each.download
    assert bool(suite.model.weights) == bool(suite.model.spec)
    assert suite.model.spec or suite.model.training or name == "openmibood"


def test_the_suites_of_the_issue_are_there() -> None:
    assert {
        "digits", "cifar10-densenet", "cifar100-densenet", "cifar10-resnet20", "medical-mnist",
        "kvasir-v2", "gastrovision", "cifar-line", "imagenet-line", "openmibood",
    } <= set(builtin_names())  # fmt: skip


def test_line_suites_run_the_published_settings() -> None:
    for name, data in (
        ("cifar-line", "cifar10"),
        ("cifar10-densenet", "cifar10"),
        ("cifar100-line", "cifar100"),
        ("imagenet-line", "imagenet"),
    ):
        (row,) = read_suite(name).detector
        settings = create(row.name, **row.settings).hyperparameters()
        assert settings == LINe.published(data).hyperparameters()


def test_an_unknown_suite_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no suite 'kvasir_v2': did you mean 'kvasir-v2'?"):
        read_suite("kvasir_v2")
    with pytest.raises(InvalidInput, match=r"Cannot read the suite '.*gone.toml': No such file"):
        read_suite(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(InvalidInput, match=r"bad.toml' is not TOML: Invalid value"):
        read_suite(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'nearness = "far"',
            'nearness = "middle"',
            'ood[1].nearness must be "near" or "far", got "middle".',
        ),
        ('train = "train"', 'trian = "train"', "id.trian is no key that is known here."),
        ('name = "small"\n', "", "name is missing."),
        ('name = "small"', "name = 3", "name must be text, got 3."),
        ("every = 3", 'every = "often"', "ood[1].images.every must be a valid integer"),
        ("every = 3", "every = 0", "ood[1].images.every must be greater than or equal to 1, got 0"),
        ('test = ["test", "validation"]', "", "id must have train and test, or all."),
        ('train = "train"', 'train = "a"\nall = "b"', "id must have either all, or train and test"),
        (
            'train = "train"',
            'train = "a"\nsplit = [0.5, 0, 0.5]',
            "id has a split, which is",
        ),
        (
            'train = "train"',
            'train = { path = "a", dataset = "digits" }',
            "id.train must have",
        ),
        ('train = "train"', 'train = { path = "a", part = "all" }', "id.train has part, place or"),
        ('train = "train"', 'train = { dataset = "digits" }', "id.train must say which part"),
        (
            'train = "train"',
            'train = { dataset = "cifar11", part = "train" }',
            "id.train: There is no data set 'cifar11': did you mean 'cifar10'?",
        ),
        (
            'dataset = "digits", part = "test"',
            'dataset = "digits", part = "test", ood_classes = ["9"]',
            "ood[1].images: digits has no choice 'ood_classes'",
        ),
        ('name = "digits"', 'name = "new"', "the suite has two OOD sets called 'new'."),
        ('nearness = "near"', "", 'ood[0] must say its nearness, "near" or "far".'),
        (
            'images = "new"',
            'images = "new"\njoin = true',
            "ood[0] joins sets, which needs",
        ),
        (
            'name = "small"',
            'name = "small"\ndetectors = "every"',
            'detectors must be "all", "one-pass", "head" or a list of names, got "every".',
        ),
        (
            'name = "small"',
            'name = "small"\ndetectors = ["nero", "lime"]',
            "detectors: There is no detector 'lime': did you mean 'line'?",
        ),
        (
            "[id]",
            '[[detector]]\nname = "line"\nsettings = { clp = 1 }\n[id]',
            "detector[0]: line has no hyper-parameter 'clp'; it has: weight_percentile",
        ),
        (
            "[id]",
            '[[detector]]\nname = "knn"\nsettings = { k = 0 }\n[id]',
            "detector[0]: k must be at least 1, got 0",
        ),
        (
            "[id]",
            '[[detector]]\nname = "line"\n[[detector]]\nname = "knn"\nlabel = "line"\n[id]',
            "the suite has two detector rows labelled 'line'.",
        ),
        (
            "[id]",
            '[[detector]]\nname = "line"\nlabel = "msp"\n[id]',
            "the suite has two detector rows labelled 'msp'.",
        ),
        (
            'weights = "weights.safetensors"',
            'training = { arch = "timm:resnet18" }',
            "model is trained, so it must not have spec",
        ),
        (
            'spec = "networks:colour_network"\nweights = "weights.safetensors"',
            'training = { arch = "timm:resnet18", epoch = 3 }',
            "model.training.epoch is no key that is known here.",
        ),
        (
            'spec = "networks:colour_network"\nweights = "weights.safetensors"',
            'training = { arch = "timm:resnet18", size = "big" }',
            'model.training.size must be a valid integer or a list, got "big".',
        ),
        (
            'weights = "weights.safetensors"',
            "preprocessing = { mean = [0.5], std = [0.0] }",
            "model.preprocessing: std must be positive",
        ),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    answer = refusal(tmp_path, old, new)
    assert answer.startswith(said) or (not said.endswith(".") and said in answer)


def test_all_wrong_keys_are_named_together_the_unknown_first(tmp_path: Path) -> None:
    said = refusal(tmp_path, 'name = "small"', 'nmae = "small"\nseed = -1')
    assert said == (
        "nmae is no key that is known here; name is missing; "
        "seed must be greater than or equal to 0, got -1."
    )


def test_ood_images_are_needed(tmp_path: Path) -> None:
    text = SMALL[: SMALL.index("[[ood]]")]
    with pytest.raises(InvalidInput, match=r"suite.toml: ood is missing\."):
        read_suite(write(tmp_path, text))
    with pytest.raises(InvalidInput, match=r"ood must have at least 1 item"):
        read_suite(write(tmp_path, "ood = []\n" + text))


def test_groups_hold_the_detectors_that_need_no_more(tmp_path: Path) -> None:
    def names(detectors: str) -> set[str]:
        text = f'detectors = "{detectors}"\n{SMALL}'
        return {row.name for row in read_suite(write(tmp_path, text)).rows()}

    assert names("all") == set(catalogue.own_names()) - {"views"}, "which views are harmless?"
    assert names("all") - names("one-pass") == {"odin", "i_odin", "nac_ue", "rank_feat"}
    assert names("one-pass") - names("head") == {"multi_layer_mahalanobis", "gram", "nap"}


def test_a_row_without_a_label_stands_in_for_the_plain_one(tmp_path: Path) -> None:
    rows = """
[[detector]]
name = "knn"
settings = { k = 5 }
[[detector]]
name = "msp"
label = "MSP again"
"""
    text = 'detectors = ["msp", "knn"]\n' + SMALL + rows
    found = read_suite(write(tmp_path, text)).rows()
    assert [(row.title, row.name, row.settings) for row in found] == [
        ("msp", "msp", {}),
        ("knn", "knn", {"k": 5}),
        ("MSP again", "msp", {}),
    ]


def test_training_overrides_only_what_the_file_says(tmp_path: Path) -> None:
    training = 'training = { arch = "timm:resnet18", epochs = 2, size = [8, 9], flip = 0 }'
    model = 'spec = "networks:colour_network"\nweights = "weights.safetensors"'
    suite = read_suite(write(tmp_path, SMALL.replace(model, training)))
    assert suite.model.training is not None
    assert suite.model.training.overrides == {"epochs": 2, "size": (8, 9), "flip": 0.0}


def test_another_model_takes_the_place_of_all_that_was_said_of_the_first(tmp_path: Path) -> None:
    suite = with_model(read_suite("cifar10-resnet20"), "timm:resnet18", tmp_path / "w.pth")
    assert suite.model.spec == "timm:resnet18"
    assert suite.model.weights == (str(tmp_path / "w.pth"),)
    assert suite.model.preprocessing is None and suite.model.layers == ()
    assert suite.ood == read_suite("cifar10-resnet20").ood


def test_own_folders_make_a_suite(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_classes(tmp_path / "id" / part, ("a", "b"))
    write_images(tmp_path / "x" / "new")
    write_images(tmp_path / "y" / "new")
    preprocessing = Preprocessing(mean=(0.5,), std=(0.5,))
    suite = own_suite(
        "timm:resnet18",
        tmp_path / "w.pth",
        tmp_path / "id",
        [("near", tmp_path / "x" / "new"), ("far", tmp_path / "y" / "new")],
        preprocessing=preprocessing,
        detectors=["nero", "msp"],
        seed=5,
    )
    assert [(role, images.path) for role, images in suite.id.roles()] == [
        ("train", (f"{tmp_path}/id/train",)),
        ("calibration", (f"{tmp_path}/id/val",)),
        ("test", (f"{tmp_path}/id/test",)),
    ]
    assert [(ood.name, ood.nearness) for ood in suite.ood] == [("new", "near"), ("new (2)", "far")]
    assert suite.model.preprocessing == preprocessing
    assert [row.name for row in suite.rows()] == ["nero", "msp"] and suite.seed == 5


def test_own_folders_that_are_not_split_are_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "id", ("a", "b"))
    suite = own_suite("timm:resnet18", None, tmp_path / "id", [("near", tmp_path)])
    assert suite.id.all is not None and suite.id.split == (0.5, 0.2, 0.3)


def test_own_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    with pytest.raises(InvalidInput, match="has 'train' but no 'test' in it"):
        own_suite("timm:resnet18", None, tmp_path, [("near", tmp_path)])
    with pytest.raises(InvalidInput, match=r'ood\[0\].nearness must be "near" or "far", got "nar"'):
        own_suite("timm:resnet18", None, tmp_path / "train", [("nar", tmp_path)])
    with pytest.raises(InvalidInput, match="ood must have at least 1 item"):
        own_suite("timm:resnet18", None, tmp_path / "train", [])


def test_builtin_suites_are_plain_toml_without_local_paths() -> None:
    folder = Path(read_suite.__code__.co_filename).with_name("suites")
    for path in folder.glob("*.toml"):
        text = path.read_text()
        tomllib.loads(text)
        assert not [line for line in text.splitlines() if '"/' in line]


def test_other_detectors_keep_the_settings_of_the_suite() -> None:
    suite = read_suite("cifar10-resnet20")
    few = {row.title: row.settings for row in suite.with_detectors(("nac_ue", "line")).rows()}
    assert few.keys() == {"nac_ue", "line"}
    assert few["nac_ue"]["layers"] == ["layer1", "layer2"]
    head = [row.title for row in suite.with_detectors("head").rows()]
    assert "LINe, published for CIFAR-10" in head
    assert "nac_ue" not in head
    for chosen in ((), ("nero", "nero"), ("nerro",)):
        with pytest.raises(InvalidInput, match="No detector|named twice|did you mean 'nero'"):
            suite.with_detectors(chosen)


def test_a_row_of_views_stays_where_it_is_named_and_where_all_are_asked_for(tmp_path: Path) -> None:
    row = '[[detector]]\nname = "views"\nsettings = { detector = "msp", views = ["mirror"] }\n'
    suite = read_suite(write(tmp_path, f"{SMALL}\n{row}"))
    assert [each.settings for each in suite.with_detectors(("views",)).rows()] == [
        {"detector": "msp", "views": ["mirror"]}
    ]
    assert "views" in {each.name for each in suite.with_detectors("all").rows()}
    assert "views" not in {each.name for each in suite.with_detectors("head").rows()}
    with pytest.raises(InvalidInput, match="No view is named"):
        read_suite(write(tmp_path, SMALL)).with_detectors(("views",))
