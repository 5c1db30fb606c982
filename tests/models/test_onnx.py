"""Classifiers exported to ONNX and run by ONNX Runtime, beside the networks they were made of."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import neroli
from colours import NEW, network
from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard, Preprocessing, extract, load_classifier
from neroli.detectors import KNN, NERO, create
from neroli.errors import ArtefactError, InvalidInput, ModelError, NeroliWarning
from neroli.execution import Execution
from neroli.explain import neurons_of, of_prediction
from neroli.explain.report import article
from neroli.models import import_torchvision, load_model, load_saved_model, model_source
from neroli.models.onnx import OnnxNetwork
from neroli.models.onnx_file import IMAGES, session_of
from networks import (
    COLOURS,
    colour_images,
    colour_loader,
    tiny_network,
    trained_colour_network,
    untrained_resnet20,
)

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the [onnx] extra is not installed")
import_torchvision()

PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), resize=(8, 8))


@pytest.fixture
def exported(file: Path) -> Classifier:
    return load_classifier(f"onnx:{file}")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_features_and_logits_are_those_of_the_network_for_any_number_of_images(
    exported: Classifier, count: int
) -> None:
    ours, theirs = exported(NEW[:count]), network()(NEW[:count])
    torch.testing.assert_close(ours.features, theirs.features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-6)
    assert exported.head_name == network_head() == "6"
    assert torch.equal(exported.head.weight, trained_colour_network()[6].weight)


def network_head() -> str:
    known = network()
    known.find_head(NEW)
    return known.head_name


def test_the_file_gives_both_to_any_program(file: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits, features = session.run(["logits", "features"], {IMAGES: NEW.numpy()})
    expected = network()(NEW)
    np.testing.assert_allclose(features, expected.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert [each.name for each in session.get_outputs()] == ["logits", "features"]


def test_nothing_of_this_machine_stands_in_the_file(file: Path) -> None:
    content = file.read_bytes()
    for path in (Path(neroli.__file__).parent, Path(torch.__file__).parent, Path.home()):
        assert str(path).encode() not in content
    assert b".py" not in content


def test_class_names_and_preprocessing_come_with_it(tmp_path: Path) -> None:
    stated = Classifier(
        trained_colour_network(), preprocessing=PREPROCESSING, class_names=("a", "b", "ç")
    )
    written = neroli.export_onnx(stated, tmp_path / "m.onnx")  # compared on noise of that size
    assert (written.input_shape, written.images) == ((3, 8, 8), 8)
    loaded = load_classifier(f"onnx:{tmp_path / 'm.onnx'}")
    assert loaded.preprocessing == PREPROCESSING
    assert loaded.class_names == ["a", "b", "ç"]
    pictures, _ = colour_images(5)
    torch.testing.assert_close(loaded(pictures).logits, stated(pictures).logits)


class Averaged(nn.Module):
    """Two heads whose logits are averaged, of the same features or of two halves of them."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.body, self.shared = tiny_network()[:6], shared
        width = 16 if shared else 8
        norm = nn.BatchNorm1d(width)
        norm.running_mean = torch.linspace(-0.2, 0.2, width)  # folded into the head, not moved
        self.heads = nn.ModuleList([nn.Linear(width, 4), nn.Sequential(norm, nn.Linear(width, 4))])

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        parts = [features, features] if self.shared else features.chunk(2, 1)
        one, two = (head(part) for head, part in zip(self.heads, parts, strict=True))
        return (one + two) / 2


@pytest.mark.parametrize(
    ("shared", "path"), [(True, "heads.0+heads.1"), (False, "heads.0|heads.1.1")]
)
def test_averaged_heads_stay_two(tmp_path: Path, shared: bool, path: str) -> None:
    averaged = Averaged(shared).eval()
    neroli.export_onnx(Classifier(averaged), tmp_path / "m.onnx", NEW)
    loaded, theirs = load_classifier(f"onnx:{tmp_path / 'm.onnx'}"), Classifier(averaged)
    torch.testing.assert_close(loaded(NEW).logits, averaged(NEW), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded(NEW).features, theirs(NEW).features, rtol=1e-5, atol=1e-6)
    assert loaded.head_name == theirs.head_name == path
    torch.testing.assert_close(loaded.head.weight, theirs.head.weight)


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(num_hidden_layers=1, num_attention_heads=2, **sizes)
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


def of_timm() -> nn.Module:
    timm = pytest.importorskip("timm")
    settings = {"depth": 1, "img_size": 32, "num_classes": 3}
    model: nn.Module = timm.create_model("deit_tiny_distilled_patch16_224", **settings)
    return model


def program() -> nn.Module:
    shapes = ({0: Dim("batch")},)
    images = torch.zeros(2, 3, 32, 32)
    return torch.export.export(untrained_resnet20(), (images,), dynamic_shapes=shapes).module()


@pytest.mark.parametrize("make", [untrained_resnet20, vit, of_timm, program])
def test_architectures(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    if make is not program:
        model.eval()
    images = torch.randn(3, 3, 32, 32)
    neroli.export_onnx(Classifier(model), tmp_path / "m.onnx", images[:2])
    loaded, theirs = load_classifier(f"onnx:{tmp_path / 'm.onnx'}"), Classifier(model)
    theirs.find_head(images)
    torch.testing.assert_close(loaded(images).logits, theirs(images).logits, rtol=1e-4, atol=1e-5)
    assert loaded.head_name == theirs.head_name
    assert loaded.weights_hash() == theirs.weights_hash()


@pytest.mark.parametrize("fitted_on", ["network", "file"])
def test_a_guard_of_the_network_is_one_of_its_file_and_the_other_way_round(
    file: Path, tmp_path: Path, fitted_on: str
) -> None:
    both = [network(), load_classifier(f"onnx:{file}")]
    first, second = both if fitted_on == "network" else both[::-1]
    guard = Guard(first, NERO()).fit(colour_loader(150, 1))
    guard.calibrate(colour_loader(120, 2, labels=False)).save(tmp_path / "guard")
    moved = Guard.load(tmp_path / "guard", second.model)
    ours, theirs = moved(NEW), guard(NEW)
    torch.testing.assert_close(ours.score, theirs.score, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.predicted_class, theirs.predicted_class)
    moved.calibrate(colour_loader(120, 4, labels=False))
    moved.save(tmp_path / "moved")
    assert Guard.load(tmp_path / "moved", first.model).classifier.class_names == list(COLOURS)


def test_a_guard_of_other_weights_is_refused(file: Path, tmp_path: Path) -> None:
    weights = trained_colour_network()
    weights[0].bias.data += 1e-3
    other = Classifier(weights, preprocessing=COLOUR_PREPROCESSING)
    Guard(other, KNN()).fit(colour_loader(90, 1)).save(tmp_path / "guard")
    with pytest.raises(ArtefactError, match="other weights"):
        Guard.load(tmp_path / "guard", load_model(f"onnx:{file}").module)


def test_a_guard_notes_where_the_file_is(file: Path, tmp_path: Path) -> None:
    source = model_source(f"onnx:{file}", None, tmp_path / "guard")
    assert source.model.startswith("onnx:..")
    assert isinstance(load_saved_model(source, tmp_path / "guard"), OnnxNetwork)
    (tmp_path / "weights.safetensors").touch()
    of_weights = model_source("networks:colour_network", tmp_path / "weights.safetensors", tmp_path)
    assert isinstance(load_saved_model(of_weights, tmp_path, f"onnx:{file}"), OnnxNetwork)
    with pytest.raises(ModelError, match="An ONNX file has its own weights: drop 'w.pt'"):
        load_classifier(f"onnx:{file}", "w.pt")


def test_activation_stores_of_network_and_file_are_kept_apart(
    exported: Classifier, tmp_path: Path
) -> None:
    stores = [extract(c, colour_images(9)[0], tmp_path / "s") for c in (network(), exported)]
    assert stores[0].key != stores[1].key
    assert stores[0].origin == stores[1].origin


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("odin", {}),
        ("rank_feat", {"layers": ("0",)}),
        ("gram", {"layers": ("0",)}),
        ("feature_masking", {}),
        ("ash_s", {}),
        ("views", {"detector": "cadref", "views": ("mirror", "left:2")}),
        ("views", {"detector": "odin", "views": ("mirror",)}),
    ],
)
def test_detectors_of_features_and_logits_work_and_others_are_refused(
    exported: Classifier, name: str, settings: dict[str, object]
) -> None:
    detector = create(name, **settings)
    needs_more = name in ("odin", "rank_feat", "gram") or settings.get("detector") == "odin"
    guard = Guard(exported, detector)
    if needs_more:
        with pytest.raises(InvalidInput, match=r"requires needs the network's layers or gradients"):
            guard.fit(colour_loader(90, 1))
        return
    theirs = Guard(network(), create(name, **settings)).fit(colour_loader(90, 1))
    guard.fit(colour_loader(90, 1))
    expected = theirs.detector.score(theirs.classifier(NEW, requires=detector.requires))
    scores = guard.detector.score(exported(NEW, requires=detector.requires))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_guard_that_needs_layers_is_not_moved_to_a_file(file: Path, tmp_path: Path) -> None:
    guard = Guard(network(), create("gram", layers=("0",))).fit(colour_loader(90, 1))
    guard.save(tmp_path / "guard")
    with pytest.raises(InvalidInput, match="layers or gradients, which ONNX Runtime does not give"):
        Guard.load(tmp_path / "guard", load_model(f"onnx:{file}").module)
    with pytest.raises(InvalidInput, match="layers or gradients"):
        Classifier(load_model(f"onnx:{file}").module, prepool="3")


def test_explanations_have_the_same_neurons_and_no_heat_maps(
    exported: Classifier, guard: Guard, tmp_path: Path
) -> None:
    guard.save(tmp_path / "guard")
    moved = Guard.load(tmp_path / "guard", exported.model)
    ours, theirs = moved.explain(NEW[0]), guard.explain(NEW[0])
    torch.testing.assert_close(ours.neurons.deviation, theirs.neurons.deviation)
    assert ours.heatmap is None and ours.deviation is None and theirs.heatmap is not None
    assert ours.to_dict()["heatmap"] is None
    assert ours.summary.split(" is evidence")[0] == theirs.summary.split(" is evidence")[0]
    assert "without heat maps, which need the network itself" in article(ours)
    assert article(ours).count("<img") == article(theirs).count("<img") - 2
    assert len(ours.figure().axes) < len(theirs.figure().axes)
    assert moved.reference is not None
    batch = moved.classifier(NEW)
    torch.testing.assert_close(
        neurons_of(moved.detector, moved.reference, batch).deviation[:1], theirs.neurons.deviation
    )
    with pytest.raises(InvalidInput, match="Heat maps need the network's layers or gradients"):
        of_prediction(exported, NEW)


def test_threads_follow_those_of_torch_and_do_not_change_what_comes_out(
    exported: Classifier,
) -> None:
    def threads() -> int:
        session = exported.model._session_on(torch.device("cpu"))
        return int(session.get_session_options().intra_op_num_threads)

    one = exported(NEW).features
    assert (threads(), threads()) == (1, 1)
    torch.set_num_threads(2)
    torch.testing.assert_close(exported(NEW).features, one)
    assert threads() == 2


def test_many_threads_can_share_one(exported: Classifier) -> None:
    batches = [torch.randn(5, 3, 8, 8) for _ in range(24)]
    expected = [exported(batch).logits for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda batch: exported(batch).logits, batches))
        bare = list(pool.map(exported.model, batches))  # past the classifier's lock
    for ours, direct, theirs in zip(found, bare, expected, strict=True):
        assert torch.equal(ours, theirs) and torch.equal(direct, theirs)


def test_copies_and_pickles_make_sessions_of_their_own(exported: Classifier) -> None:
    for twin in (copy.deepcopy(exported.model), pickle.loads(pickle.dumps(exported.model))):
        assert torch.equal(Classifier(twin)(NEW).logits, exported(NEW).logits)


def test_a_guard_fitted_in_half_precision_runs_in_full_precision_if_told(
    exported: Classifier, tmp_path: Path
) -> None:
    half = Classifier(trained_colour_network(), execution=Execution("bfloat16"))
    Guard(half, NERO()).fit(colour_loader(60, 1)).save(tmp_path / "guard")
    with pytest.raises(InvalidInput, match="cannot run it as bfloat16: give --precision float32"):
        Guard.load(tmp_path / "guard", exported.model)
    with pytest.warns(NeroliWarning, match="calibrated in bfloat16 and runs in float32"):
        loaded = Guard.load(tmp_path / "guard", exported.model, execution=Execution())
    assert torch.equal(loaded.classifier(NEW).logits, exported(NEW).logits)


def test_images_of_another_shape_and_other_precisions_and_devices_are_refused(
    file: Path, exported: Classifier
) -> None:
    with pytest.raises(InvalidInput, match=r"exported for images of shape \[3, 8, 8\]"):
        exported(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ModelError, match="float32 alone"):
        exported.model.half()
    with pytest.raises(InvalidInput, match="ONNX Runtime runs .* cannot run it as bfloat16, comp"):
        load_classifier(f"onnx:{file}", execution=Execution("bfloat16", compile=True))
    assert exported(NEW.double()).features.dtype == torch.float32
    with pytest.raises(ModelError, match="cannot compute on 'mps'.*choose the device cpu"):
        session_of(file, torch.device("mps"), 1)
