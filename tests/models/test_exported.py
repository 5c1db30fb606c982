"""Programs of torch.export as classifiers."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from neroli import Classifier, Guard
from neroli.detectors import NERO
from neroli.errors import ModelError
from neroli.models import load_classifier, load_model, load_saved_model, model_source
from neroli.models.cifar import ResNet20
from networks import colour_loader, tiny_network, trained_colour_network

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def exported(model: nn.Module, images: Tensor = IMAGES) -> ExportedProgram:
    return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch")},))


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return exported(trained_colour_network())


@pytest.mark.parametrize("form", ["program", "decomposed", "module"])
def test_a_program_is_a_classifier_like_the_network_it_was_made_of(
    program: ExportedProgram, form: str
) -> None:
    given = {
        "program": program,
        "decomposed": program.run_decompositions(),
        "module": program.module(),
    }[form]
    classifier = Classifier(given)
    network = Classifier(trained_colour_network())
    ours, theirs = classifier(IMAGES), network(IMAGES)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.features, theirs.features)
    assert torch.equal(classifier.head.weight, network.head.weight)
    assert classifier.weights_hash() == network.weights_hash()


class Distilled(nn.Module):
    """Two heads on two halves of the features, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = tiny_network()[:6], nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.body(x).chunk(2, 1)
        return (self.one(first) + self.two(second)) / 2


def test_averaged_heads_and_weights_without_a_module_are_found_too() -> None:
    distilled = Distilled().eval()
    classifier = Classifier(exported(distilled))
    torch.testing.assert_close(classifier(IMAGES).logits, distilled(IMAGES))
    assert classifier.head_name == "one|two"

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.matrix = tiny_network()[:6], nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.body(x), self.matrix)

    bare = Bare().eval()
    classifier = Classifier(exported(bare))
    torch.testing.assert_close(classifier(IMAGES).logits, bare(IMAGES))
    assert torch.equal(classifier.head.weight, bare.matrix)


def test_a_saved_program_guards_like_its_network(program: ExportedProgram, tmp_path: Path) -> None:
    torch.export.save(program, tmp_path / "model.pt2")
    guard = Guard(load_classifier(f"export:{tmp_path / 'model.pt2'}"), NERO())
    guard.fit(colour_loader(90, 1)).calibrate(colour_loader(60, 2, labels=False))
    network = Guard(Classifier(trained_colour_network()), NERO()).fit(colour_loader(90, 1))
    network.calibrate(colour_loader(60, 2, labels=False))
    torch.testing.assert_close(guard(IMAGES).score, network(IMAGES).score)
    guard.save(tmp_path / "guard")
    source = model_source(f"export:{tmp_path / 'model.pt2'}", None, tmp_path / "guard")
    assert source.model == "export:../model.pt2"
    loaded = Guard.load(tmp_path / "guard", load_saved_model(source, tmp_path / "guard"))
    assert torch.equal(loaded(IMAGES).score, guard(IMAGES).score)


def test_programs_of_one_batch_size_or_of_train_mode_are_refused() -> None:
    with pytest.raises(ModelError, match=r"batches of exactly 5: .*dynamic_shapes"):
        Classifier(torch.export.export(ResNet20().eval(), (torch.zeros(5, 3, 32, 32),)))
    with pytest.raises(ModelError, match=r"in train mode.*export model.eval\(\)"):
        Classifier(exported(tiny_network().train()))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_no_code_in_a_program_file_is_run(
    program: ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.export.save(program, "good.pt2")
    bomb = io.BytesIO()
    torch.save({"x": Bomb()}, bomb)
    with zipfile.ZipFile("good.pt2") as good:
        graph = good.read("good/models/model.json").decode()
    size = "__import__('os').mkdir('exploded') or s0"
    crafted = {
        "data/sample_inputs/model.pt": bomb.getvalue(),
        "data/constants/opaque_obj_0": pickle.dumps(Bomb()),
        "data/constants/custom_obj_0": pickle.dumps(Bomb()),
        "data/weights/model_weights_config.json": b'{"config": {"w": {"use_pickle": true}}}',
        "data/aotinductor/evil/evil.so": b"\x7fELF",
        "models/model.json": graph.replace('"guards_code": []', f'"guards_code": ["{size}"]'),
        "models/model.json ": re.sub(r'"expr_str": "[^"]*"', f'"expr_str": "{size}"', graph),
        "serialized_state_dict.json": pickle.dumps(Bomb()),
    }
    for name, content in crafted.items():
        with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
            for entry in good.namelist():
                if not entry.endswith(name.strip()):
                    bad.writestr(entry, good.read(entry))
            bad.writestr(f"good/{name.strip()}", content)
        with pytest.raises(ModelError, match=f"holds 'good/{name.strip()}'"):
            load_model("export:bad.pt2")
    assert not Path("exploded").exists()


def test_files_that_are_no_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    with pytest.raises(ModelError, match="Cannot read the exported program"):
        load_model(f"export:{tmp_path / 'junk.pt2'}")
    torch.save({}, tmp_path / "weights.pt2")
    with pytest.raises(ModelError, match="no exported program of this kind"):
        load_model(f"export:{tmp_path / 'weights.pt2'}")
    with pytest.raises(ModelError, match="has its own weights"):
        load_model("export:model.pt2", tmp_path / "weights.pt")
