"""The network runs in half precision, channels last or compiled, and is left as it was."""

import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import COLOUR_PREPROCESSING
from neroli import Classifier, Guard, compiling, extract
from neroli.data.folders import ImageFolder
from neroli.detectors import NERO, ODIN
from neroli.errors import InvalidInput, NeroliWarning
from neroli.execution import Execution
from neroli.explain.heatmap import propagate
from neroli.relevance import relevance
from neroli.taps import Requirements, Tap
from networks import colour_loader, colour_tensors, tiny_network, trained_colour_network

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TAPS = Requirements((Tap("0", "max"), Tap("2@input")), prepool=True)
HALF = Execution("bfloat16")
COMPILED = Execution(compile=True)


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is traced whole, as for compiling, but no machine code is made of it."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")


def features_of(model: nn.Module, images: Tensor, head: str = "6") -> Tensor:
    """What the head takes, by a hook of its own."""
    taken: list[Tensor] = []
    hook = model.get_submodule(head).register_forward_hook(
        lambda m, given, out: taken.append(*given)
    )
    with torch.no_grad():
        model(images)
    hook.remove()
    return taken[0]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_autocast_up_to_the_features_and_float32_from_there(
    precision: str,
) -> None:
    model = tiny_network().eval()
    with torch.autocast("cpu", getattr(torch, precision)):
        features = features_of(model, IMAGES)
    found = Classifier(model, execution=Execution(precision))(IMAGES)  # type: ignore[arg-type]
    assert found.features.dtype == found.logits.dtype == torch.float32
    assert torch.equal(found.features, features.float())
    assert not torch.equal(found.features, Classifier(model)(IMAGES).features)
    expected = F.linear(features.float(), model[6].weight, model[6].bias)
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-6)


def test_relevance_sums_to_one_in_half_precision_as_it_does_otherwise() -> None:
    classifier = Classifier(trained_colour_network(), execution=HALF)
    batch = classifier(colour_tensors(30)[0])
    shares = batch.features @ classifier.head.weight.T + classifier.head.bias
    torch.testing.assert_close(shares, batch.logits, rtol=0, atol=1e-5)
    ours, _ = relevance(batch, classifier.head)
    exact = batch.features.double() * (
        batch.logits.double().softmax(1) / batch.logits.double() @ classifier.head.weight.double()
    )
    torch.testing.assert_close(ours.double().sum(1), exact.sum(1), rtol=1e-4, atol=1e-4)


def test_images_are_laid_out_with_channels_last_for_the_network_alone() -> None:
    class Noting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    layouts: list[bool] = []
    model = Noting(*tiny_network().eval())
    plain = Classifier(model)(IMAGES)
    layouts.clear()
    classifier = Classifier(model, "6", execution=Execution(channels_last=True))
    found = classifier(IMAGES, requires=TAPS)
    assert layouts[-1] and IMAGES.is_contiguous()
    torch.testing.assert_close(found.features, plain.features)
    assert all(weight.is_contiguous() for weight in model.parameters())


def test_a_compiled_network_gives_what_the_network_does() -> None:
    """Machine code is made here; the other tests of compiling go without."""
    model = tiny_network().train()
    model[1].eval()
    as_it_is = Classifier(model)
    classifier = Classifier(model, execution=COMPILED)
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    for images in (IMAGES, IMAGES[:1], torch.cat([IMAGES, -IMAGES])):  # of any number
        expected, found = (each(images, requires=TAPS) for each in (as_it_is, classifier))
        torch.testing.assert_close(found.features, expected.features)
        torch.testing.assert_close(found.logits, expected.logits)
        for kind in ("taps", "extras"):
            torch.testing.assert_close(dict(getattr(found, kind)), dict(getattr(expected, kind)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    for module in model.modules():
        assert not module._forward_hooks and module._compiled_call_impl is None
        assert "_orig_mod" not in module._modules


@pytest.mark.usefixtures("without_code")
def test_every_set_of_layers_is_watched_in_what_is_compiled() -> None:
    model = tiny_network().eval()
    classifier, as_it_is = Classifier(model, execution=COMPILED), Classifier(model)
    for layers in ((), ("0",), ("2", "0"), ("4",), ("0",)):
        requires = Requirements(tuple(Tap(layer) for layer in layers))
        found, expected = (each(IMAGES, requires=requires) for each in (classifier, as_it_is))
        torch.testing.assert_close(dict(found.taps), dict(expected.taps))
        torch.testing.assert_close(found.features, expected.features)


def test_a_network_is_not_compiled_for_every_size_of_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[Any] = []

    def counting(graph: Any, examples: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", counting)
    classifier = Classifier(tiny_network().eval(), execution=COMPILED)
    for count in (32, 31, 17, 64):
        assert len(classifier(torch.randn(count, 3, 8, 8)).features) == count
    assert len(compiled) == 1
    for count in (7, 1, 2, 3):
        assert len(classifier(torch.randn(count, 3, 8, 8)).features) == count
    assert len(compiled) == 2  # torch convolves batches below 16 in another way


@pytest.mark.usefixtures("without_code")
def test_a_compiled_network_has_the_present_weights() -> None:
    model = tiny_network().eval()
    classifier = Classifier(model, "6", execution=COMPILED)
    before = classifier(IMAGES).logits
    with torch.no_grad():
        model[6].bias += 1
    torch.testing.assert_close(classifier(IMAGES).logits, before + 1)
    model[6] = nn.Linear(16, 4)
    with torch.no_grad():
        expected = model(IMAGES)
    torch.testing.assert_close(classifier(IMAGES).logits, expected)


@pytest.mark.usefixtures("without_code")
def test_a_compiled_network_runs_in_half_precision_too() -> None:
    model = tiny_network().eval()
    both = Classifier(model, execution=Execution("bfloat16", channels_last=True, compile=True))
    expected = Classifier(model, execution=HALF)(IMAGES, requires=TAPS)
    found = both(IMAGES, requires=TAPS)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0.02, atol=0.02)
    torch.testing.assert_close(dict(found.taps), dict(expected.taps), rtol=0.02, atol=0.02)


def test_a_network_that_cannot_be_compiled_whole_is_refused() -> None:
    class Peeking(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 2 if x.sum().item() > 0 else x)

    classifier = Classifier(Peeking(*tiny_network().eval()), execution=COMPILED)
    with pytest.raises(InvalidInput, match="torch.compile cannot take this Peeking as a whole"):
        classifier(IMAGES)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    classifier = Classifier(tiny_network().eval(), execution=COMPILED)
    with pytest.raises(InvalidInput, match=r"needs a C\+\+ compiler and there is none: install g"):
        classifier(IMAGES)


def test_features_that_float16_cannot_hold_are_refused() -> None:
    model = tiny_network().eval()
    with torch.no_grad():
        model[0].weight *= 1e5
        model[1].running_var *= 1e-4
    assert torch.isfinite(Classifier(model, "6")(IMAGES).logits).all()
    with pytest.raises(InvalidInput, match="In float16 the features of image 0 .* bfloat16"):
        Classifier(model, "6", execution=Execution("float16"))(IMAGES)


@pytest.mark.parametrize(("setting", "value"), [("precision", "float8"), ("compile", "later")])
def test_what_cannot_be_an_execution_is_refused(setting: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"{setting}='{value}' does not suit Execution"):
        Execution(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize("execution", [HALF, COMPILED])
def test_images_are_measured_and_explained_by_the_network_as_it_is(execution: Execution) -> None:
    model = trained_colour_network()
    as_it_is, otherwise = Classifier(model), Classifier(model, execution=execution)
    images = colour_tensors(6)[0]
    requires = ODIN().requires
    torch.testing.assert_close(
        dict(otherwise(images, requires=requires).extras),
        dict(as_it_is(images, requires=requires).extras),
        rtol=0,
        atol=0,
    )
    start = as_it_is(images).features
    maps = [propagate(each, images, start).relevance for each in (as_it_is, otherwise)]
    assert torch.equal(*maps)
    assert otherwise.execution == execution


def test_activations_of_another_execution_are_extracted_anew(
    pictures: Path, tmp_path: Path
) -> None:
    classifier = Classifier(trained_colour_network(), preprocessing=COLOUR_PREPROCESSING)
    folder = ImageFolder(pictures / "new")
    plain = extract(classifier, folder, tmp_path / "store")
    classifier.execution = HALF
    half = extract(classifier, folder, tmp_path / "store")
    assert half.key != plain.key
    rows = half.load().features
    again = torch.cat(
        [classifier(b.images).features for b in folder.batches(COLOUR_PREPROCESSING, 64)]
    )
    assert torch.equal(rows, again)


@pytest.fixture
def half_guard(tmp_path: Path) -> Path:
    classifier = Classifier(trained_colour_network(), execution=HALF)
    guard = Guard(classifier, NERO()).fit(colour_loader(150, 1))
    guard.calibrate(colour_loader(120, 2, labels=False)).save(tmp_path / "guard")
    return tmp_path / "guard"


def test_a_guard_runs_the_network_as_it_was_fitted(half_guard: Path) -> None:
    loaded = Guard.load(half_guard, trained_colour_network())
    assert loaded.classifier.execution == HALF == loaded.manifest().classifier.execution
    images = colour_tensors(20, 3)[0]
    batch = Classifier(trained_colour_network(), execution=HALF)(images)
    assert torch.equal(loaded(images).score, loaded.detector.score(batch))


def test_a_guard_says_what_another_precision_may_change(half_guard: Path) -> None:
    with pytest.warns(NeroliWarning, match="calibrated in bfloat16 and runs in float32: scores sh"):
        loaded = Guard.load(half_guard, trained_colour_network(), execution=Execution())
    images = colour_tensors(20, 3)[0]
    batch = Classifier(trained_colour_network())(images)
    assert torch.equal(loaded(images).score, loaded.detector.score(batch))
    assert loaded.manifest().classifier.execution == HALF  # what it was calibrated with
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same precision: rounding alone
        Guard.load(
            half_guard,
            trained_colour_network(),
            execution=Execution("bfloat16", channels_last=True),
        )


def test_guards_of_before_run_the_network_as_it_is(half_guard: Path) -> None:
    manifest: dict[str, Any] = json.loads((half_guard / "manifest.json").read_text())
    del manifest["classifier"]["execution"]
    (half_guard / "manifest.json").write_text(json.dumps(manifest))
    assert Guard.load(half_guard, trained_colour_network()).classifier.execution == Execution()
