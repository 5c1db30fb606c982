"""Classifiers exported to ONNX and run by ONNX Runtime, beside the networks they were made of."""

import base64
import copy
import pickle
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.export import Dim

import neroli
from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard, Preprocessing, extract, load_classifier
from neroli.detectors import KNN, NERO, create
from neroli.errors import ArtefactError, InvalidInput, ModelError
from neroli.explain import neurons_of, of_prediction
from neroli.explain.report import article
from neroli.models import import_torchvision, load_model, load_saved_model, model_source
from neroli.models import onnx_export as exporting
from neroli.models.onnx import OnnxNetwork
from neroli.models.onnx_file import IMAGES, STATEMENT, TENSORS, noise, session_of
from networks import (
    COLOURS,
    colour_images,
    colour_loader,
    tiny_network,
    trained_colour_network,
    untrained_resnet20,
)

onnx = pytest.importorskip("onnx", reason="the [onnx] extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the [onnx] extra is not installed")
pytest.importorskip("onnxscript", reason="the [onnx] extra is not installed")
import_torchvision()

NEW = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(3))
PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), resize=(8, 8))


def network() -> Classifier:
    return Classifier(
        trained_colour_network(), preprocessing=COLOUR_PREPROCESSING, class_names=COLOURS
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour network, exported; copied by tests that change it."""
    path = tmp_path_factory.mktemp("onnx") / "colours.onnx"
    written = neroli.export_onnx(network(), path, NEW)
    assert written.input_shape == (3, 8, 8)
    assert written.bytes == path.stat().st_size
    return path


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
    ],
)
def test_detectors_of_features_and_logits_work_and_others_are_refused(
    exported: Classifier, name: str, settings: dict[str, object]
) -> None:
    detector = create(name, **settings)
    needs_more = detector.requires.kept != create("msp").requires.kept
    assert needs_more == (name in ("odin", "rank_feat", "gram"))
    guard = Guard(exported, detector)
    if needs_more:
        with pytest.raises(InvalidInput, match=r"requires needs the network's layers or gradients"):
            guard.fit(colour_loader(90, 1))
        return
    theirs = Guard(network(), create(name, **settings)).fit(colour_loader(90, 1))
    guard.fit(colour_loader(90, 1))
    expected = theirs.detector.score(theirs.classifier(NEW))
    torch.testing.assert_close(guard.detector.score(exported(NEW)), expected, rtol=1e-4, atol=1e-5)


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


def test_images_of_another_shape_and_other_precisions_and_devices_are_refused(
    file: Path, exported: Classifier
) -> None:
    with pytest.raises(InvalidInput, match=r"exported for images of shape \[3, 8, 8\]"):
        exported(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ModelError, match="float32 alone"):
        exported.model.half()
    assert exported(NEW.double()).features.dtype == torch.float32
    with pytest.raises(ModelError, match="cannot compute on 'mps'.*choose the device cpu"):
        session_of(file, torch.device("mps"), 1)


# ---- what cannot be exported


class Wrong(nn.Module):
    """A network that an exporter sees otherwise than it is, or not at all."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = tiny_network(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "otherwise" and torch.compiler.is_exporting():
            x = x * 1.01
        if self.how == "branches" and x.sum() > 0:
            x = x * 2
        logits: Tensor = self.body(x)
        return logits


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ModelError, match=r"differ from the network's by up to 0\.\d+, where round"):
        neroli.export_onnx(Classifier(Wrong("otherwise").eval()), path, NEW)
    assert path.read_bytes() == b"what was there"
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_what_cannot_be_exported_is_refused_with_the_reason(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    tiny = tiny_network().eval()
    with pytest.raises(ModelError, match="torch cannot export this Wrong to ONNX: .+"):
        neroli.export_onnx(Classifier(Wrong("branches").eval()), path, NEW)
    with pytest.raises(ModelError, match=r"computes in torch.float64.*export model.float\(\)"):
        neroli.export_onnx(Classifier(copy.deepcopy(tiny).double()), path, NEW)
    with pytest.raises(ModelError, match="Exporting a network needs the network's layers"):
        neroli.export_onnx(load_classifier(f"onnx:{file}"), path, NEW)
    with pytest.raises(InvalidInput, match="size of the network's images is not known: give imag"):
        neroli.export_onnx(Classifier(tiny), path)
    shorter = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=8)
    with pytest.raises(InvalidInput, match="shorter side.*has 8 pixels, the longer any"):
        neroli.export_onnx(Classifier(tiny, preprocessing=shorter), path)
    with pytest.raises(ArtefactError, match="is a folder"):
        neroli.export_onnx(Classifier(tiny), tmp_path, NEW)
    monkeypatch.setattr(exporting, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="one ONNX file holds no more than"):
        neroli.export_onnx(Classifier(tiny), path, NEW)
    assert not path.exists()


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_said_with_the_extra_that_brings_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=r"Exporting to ONNX needs .*\[onnx\] extra"):
        neroli.export_onnx(network(), tmp_path / "m.onnx", NEW)
    if package == "onnxruntime":
        with pytest.raises(ModelError, match=r"colours.onnx needs onnx: .*\[onnx\] extra"):
            load_classifier(f"onnx:{file}")
    else:
        assert load_classifier(f"onnx:{file}").class_names == list(COLOURS)


# ---- files that are not what they should be


def changed(file: Path, path: Path, **metadata: str | None) -> Path:
    """The file with other metadata; None takes the key away."""
    model = onnx.load(file)
    known = {each.key: each.value for each in model.metadata_props} | metadata
    model.ClearField("metadata_props")
    for key, value in known.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_files_that_cannot_be_read_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="There is no ONNX file"):
        load_model(f"onnx:{path}")
    whole = file.read_bytes()
    for content in (b"", b"no model", whole[:200], whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"m.onnx' (is no network that|\(damaged)"):
            load_model(f"onnx:{path}")
    newer = onnx.load(file)
    newer.ir_version = 9999
    path.write_bytes(newer.SerializeToString())
    with pytest.raises(ModelError, match=r"ONNX Runtime .* cannot load .*newer version"):
        load_model(f"onnx:{path}")


def test_files_that_neroli_did_not_export_are_refused_with_the_remedy(
    file: Path, tmp_path: Path
) -> None:
    helper, path = onnx.helper, tmp_path / "theirs.onnx"
    given = helper.make_tensor_value_info("input", 1, ["batch", 4])
    taken = helper.make_tensor_value_info("output", 1, ["batch", 4])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])], "g", [given], [taken]
    )
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), path
    )
    remedy = r"'input' \(tensor\(float\)\), 'output' .*export the network .* `neroli export`"
    with pytest.raises(ModelError, match=remedy):
        load_model(f"onnx:{path}")
    with pytest.raises(ModelError, match="no network that neroli exported"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: None})}")


def test_damaged_or_newer_statements_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    metadata = {each.key: each.value for each in onnx.load(file).metadata_props}
    later = metadata[STATEMENT].replace('"schema_version":1', '"schema_version":9')
    with pytest.raises(ModelError, match="m.onnx' says of itself has schema 9, newer.*upgrade"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: later})}")
    with pytest.raises(ModelError, match=r"says of itself is damaged .*: export it again"):
        load_model(f"onnx:{changed(file, path, **{STATEMENT: '{}'})}")
    tensors = load(base64.b64decode(metadata[TENSORS]))
    headless = save({name: t for name, t in tensors.items() if not name.endswith("bias")})
    for damaged in ("?", "AAAA", base64.b64encode(headless).decode()):
        with pytest.raises(ModelError, match=r"head in the ONNX file .* is damaged"):
            load_model(f"onnx:{changed(file, path, **{TENSORS: damaged})}")


def test_a_quantised_file_is_another_network_and_refused(file: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(file, tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match=r"differ from .* rounding explains .*quantised"):
        load_model(f"onnx:{tmp_path / 'int8.onnx'}")


def test_a_file_that_is_replaced_meanwhile_is_noticed(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(file, path)
    loaded = load_classifier(f"onnx:{path}")
    loaded(NEW)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(2 * values, tensor.name))
    onnx.save(model, path)
    torch.set_num_threads(2)  # a new session, of what now lies there
    with pytest.raises(InvalidInput, match="differ from those of the network it was exported from"):
        loaded(NEW)


def test_noise_is_spread_as_it_should_be_and_always_the_same() -> None:
    values = noise((3, 32, 32), 4)
    assert values.shape == (4, 3, 32, 32)
    assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01
    steps = [(i * 2_654_435_761 % 2**32 / 2**32 - 0.5) * 12**0.5 for i in (1, 2, 3)]
    torch.testing.assert_close(values.flatten()[:3], torch.tensor(steps))
