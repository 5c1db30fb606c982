"""Fine-tuning: epoch after epoch from a recipe, the best of which is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import Failure
from neroli.errors import (
    ArtefactError,
    InvalidInput,
    LabelsRequired,
    ModelError,
    NeroliWarning,
    NotEnoughImages,
    UnreadableImage,
)
from neroli.files import tensors_digest, text_digest
from neroli.models import load_model, to
from neroli.models.statement import Epoch, Statement, read_statement, write_weights
from neroli.progress import progress_bar
from neroli.running import evaluation_mode, logits_of, run
from neroli.training.checkpoints import Checkpoints
from neroli.training.epochs import Session, seed_of
from neroli.training.recipe import Recipe

__all__ = ["Epoch", "Recipe", "Trained", "train"]

Say = Callable[[str], None]
"""What is called with every sentence that the user of a long training may want to see."""


@dataclass(frozen=True)
class Trained:
    """A trained network's weights file and how good they are.

    Attributes:
        weights: the file, which ``load_classifier`` reads with preprocessing and class names.
        epoch: whose weights these are.
        validation_accuracy: of them, as a fraction.
        validation_images: which that was measured on.
        class_names: of the C classes.
        preprocessing: how pictures become the network's input.
        history: all epochs.
        unreadable: how many training and validation images were left out.
        failures: these images with the reasons; none of a training that was finished before.
    """

    weights: Path
    epoch: int
    validation_accuracy: float
    validation_images: int
    class_names: list[str]
    preprocessing: Preprocessing
    history: list[Epoch]
    unreadable: int
    failures: tuple[Failure, ...] = ()

    @classmethod
    def of(cls, weights: Path, stated: Statement, failures: Sequence[Failure] = ()) -> Trained:
        """As the weights file states it."""
        return cls(
            weights=weights,
            epoch=stated.epoch,
            validation_accuracy=stated.validation_accuracy,
            validation_images=stated.validation_images,
            class_names=stated.class_names,
            preprocessing=stated.preprocessing,
            history=stated.history,
            unreadable=stated.unreadable,
            failures=tuple(failures),
        )


def train(
    arch: str,
    training: Pictures,
    validation: Pictures,
    out: Path | str,
    recipe: Recipe = Recipe(),  # noqa: B008  it is frozen
    *,
    class_names: Sequence[str],
    weights: Path | str | None = None,
    device: str = "cpu",
    progress: bool | None = None,
    say: Say = lambda sentence: None,
) -> Trained:
    """Fine-tune all parameters of a network and save the weights of the best validated epoch.

    Plain cross-entropy and Adam. A last batch of a single image is merged with the one before. The
    same seed gives the same weights on a CPU with the same number of threads for computing. An
    interrupted training goes on from its checkpoint with the same result; one that is finished is
    not repeated.

    Args:
        arch: the model, as ``load_model`` takes it; timm's and torchvision's are made for C
            classes, any other must give C logits already.
        training: pictures with class indices.
        validation: likewise, of other images; they choose the epoch.
        out: the ``.safetensors`` file to write; a folder of this name and ``.partial`` keeps the
            checkpoint while it lasts.
        recipe: how.
        class_names: of the C classes.
        weights: to begin with; if they are of another number of classes, all but the head.
        device: where the network runs.
        progress: show a progress bar on standard error; None does so on a terminal.
        say: called with a sentence now and then.

    Raises:
        LabelsRequired: if either set has no class indices.
        NotEnoughImages: if a class has no readable training image, or validation none.
        InvalidInput: if there are fewer than two classes, a class index is out of range, or the
            network cannot take the images.
        ModelError: if the model or weights cannot be loaded, it is not of C classes, or training
            diverges.
        ArtefactError: if the weights or the checkpoint cannot be written.

    Source: the training protocol of NERO (Chhetri et al. 2025).
    """
    out, names = Path(out), [str(name) for name in class_names]
    _check_names(names)
    for side, pictures in (("training", training), ("validation", validation)):
        _check_labels(side, pictures, len(names))
    before = _stated_before(out, weights)
    _check_readable(training, names)
    with _own_draws(device, recipe.seed):
        network = _network(arch, weights, len(names), recipe, device, say)
        session = Session(network, training, validation, recipe)
        of = [arch, tensors_digest(network.state_dict()), json.dumps([names, asdict(recipe)])]
        key = text_digest([*of, training.fingerprint, validation.fingerprint])
        if before is not None and before.key == key:
            say(f"{str(out)!r} holds the weights of this training already.")
            return Trained.of(out, before)
        with Checkpoints(out, key) as checkpoints:
            _run_epochs(session, recipe, len(training), checkpoints, progress, say)
            standing = session.standing
            best = standing.best_epoch
            assert best is not None and best.validation_accuracy is not None  # the last is measured
            statement = Statement(
                arch=arch,
                class_names=names,
                preprocessing=recipe.preprocessing,
                key=key,
                epoch=best.epoch,
                validation_accuracy=best.validation_accuracy,
                validation_images=len(validation) - len(session.unreadable["validation"]),
                unreadable=sum(map(len, session.unreadable.values())),
                history=standing.history,
            )
            write_weights(out, standing.best, statement)
            checkpoints.remove()
        network.load_state_dict(standing.best)  # a network of the user's own may live on
        network.eval()
    if copies := session.copies():
        warnings.warn(
            f"{copies} of the validation images are copies of training images, so that the "
            "validation accuracy says too much: leave them out of one of the two.",
            NeroliWarning,
            stacklevel=2,
        )
    failures = [failure for side in session.unreadable.values() for failure in side]
    return Trained.of(out, statement, failures)


def _run_epochs(
    session: Session,
    recipe: Recipe,
    images: int,
    checkpoints: Checkpoints,
    progress: bool | None,
    say: Say,
) -> None:
    """Run the epochs that are missing behind the checkpoint, if there is one."""
    standing = session.standing
    if checkpoints.restore(standing):
        say(f"Going on after epoch {len(standing.history)} of {recipe.epochs}.")
    begin = len(standing.history)
    with progress_bar(recipe.epochs * images, begin * images, progress) as advance:
        for number in range(begin + 1, recipe.epochs + 1):
            epoch = session.run(number, advance)
            standing.add(epoch)
            if number < recipe.epochs:  # so that one epoch at least is run, and meets all images
                checkpoints.save(standing)
            if epoch.validation_accuracy is not None:
                say(
                    f"Epoch {number} of {recipe.epochs}: loss {epoch.loss:.4f}, validation "
                    f"accuracy {epoch.validation_accuracy:.2%}."
                )


@contextmanager
def _own_draws(device: str, seed: int) -> Iterator[None]:
    """Draws of torch by a seed, after which the user's own go on where they were."""
    gpus = range(torch.cuda.device_count()) if device.startswith("cuda") else ()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed_of(seed, 0))
        yield


def _network(
    arch: str, weights: Path | str | None, num_classes: int, recipe: Recipe, device: str, say: Say
) -> nn.Module:
    """The network before training, for images of the recipe.

    Raises:
        ModelError: if it cannot be loaded or trained, or does not give ``num_classes`` logits.
        InvalidInput: if it cannot take the images.
    """
    if arch.startswith(("export:", "onnx:")):
        raise ModelError(
            f"{arch!r} is an exported program, which is frozen: name the network it was made of."
        )
    loaded = load_model(arch, weights, num_classes=num_classes)
    if loaded.new_layers:
        layers = ", ".join(loaded.new_layers)
        say(f"The weights are of other classes: all but the head ({layers}) is taken from them.")
    network = to(device, loaded.module).requires_grad_(True)
    parameter = next(network.parameters(), None)
    if parameter is None:
        raise ModelError(f"{arch!r} has no parameters to train.")
    with evaluation_mode(network):
        images = torch.zeros(2, *recipe.input_shape, device=parameter.device)
        logits = logits_of(run(network, images))
    if logits.shape[1] != num_classes:
        raise ModelError(
            f"{arch!r} gives {logits.shape[1]} logits and there are {num_classes} classes: make it "
            f"for {num_classes}."
        )
    return network


def _stated_before(out: Path, weights: Path | str | None) -> Statement | None:
    """What the weights file says that is to be replaced; None if there is none.

    Raises:
        InvalidInput: if it is no ``.safetensors`` file, or the training is to begin with it.
        ArtefactError: if it is none of neroli's, or a folder.
    """
    if out.suffix.lower() != ".safetensors":
        raise InvalidInput(f"Weights are written to a .safetensors file, got {str(out)!r}.")
    if out.is_dir():
        raise ArtefactError(f"{str(out)!r} is a folder: name a file to write the weights to.")
    if not out.exists():
        return None
    if weights is not None and Path(weights).exists() and out.samefile(weights):
        raise InvalidInput(
            f"{str(out)!r} would replace the weights to begin with: choose another name."
        )
    stated = read_statement(out)
    if stated is None:
        raise ArtefactError(
            f"{str(out)!r} holds weights that neroli did not train: move them away or choose "
            "another name."
        )
    return stated


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise InvalidInput(f"A classifier needs two classes or more, got {list(names)}.")
    odd = next(
        (n for n in names if names.count(n) > 1 or n != n.encode(errors="replace").decode()), None
    )
    if odd is not None:
        raise InvalidInput(f"The class name {odd!r} is there twice or not UTF-8: rename it.")


def _check_labels(side: str, pictures: Pictures, num_classes: int) -> None:
    if pictures.labels is None:
        remedy = (
            "take pictures.labelled({name: class index})"
            if pictures.stated_labels
            else ("put them into one subfolder a class, or give a table with a label column")
        )
        raise LabelsRequired(f"The {side} images have no class indices: {remedy}.")
    outside = next((label for label in pictures.labels if not 0 <= label < num_classes), None)
    if outside is not None:
        raise InvalidInput(
            f"The {side} images have the class index {outside}, and there are {num_classes} "
            "classes."
        )


def _check_readable(training: Pictures, names: Sequence[str]) -> None:
    """Raise NotEnoughImages if a class has no readable image."""
    absent = dict(enumerate(names))
    assert training.labels is not None
    for row, label in zip(training.rows, training.labels, strict=True):
        if label in absent:
            try:
                training.reader.read(row)
            except UnreadableImage:
                continue
            del absent[label]
    if absent:
        name = next(iter(absent.values()))
        raise NotEnoughImages(
            f"The class {name!r} has no training image that can be read: add images of that class "
            "or leave it out."
        )
