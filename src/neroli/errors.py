"""The exceptions and warnings users meet: each message says what was wrong and what to do."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class NeroliError(Exception):
    """Base class of every error neroli raises on purpose."""


class HeadNotFound(NeroliError):
    """No module of the network is a linear layer that yields the logits."""


class ModelError(NeroliError):
    """A model or its weights cannot be loaded or used."""


class InvalidInput(NeroliError, ValueError):
    """An argument, tensor or image has the wrong shape, type or content."""


class MissingData(InvalidInput):
    """Images or weights that a benchmark runs on are not where they should be."""


class UnreadableImage(InvalidInput):
    """A file or array cannot be turned into an image; batch runs record it and go on.

    Args:
        reason: for whoever has the file.
        told: for whoever has sent it to a server, without what decoders say and files hold; the
            same by default.
    """

    def __init__(self, reason: str, told: str | None = None) -> None:
        super().__init__(reason)
        self.told = reason if told is None else told


class TooManyPixels(UnreadableImage):
    """An image claims more pixels than are ever decoded."""


class LabelsRequired(NeroliError):
    """A detector that learns from labels was given training images without any."""


class NotFitted(NeroliError):
    """A detector or guard was asked for scores before it was fitted."""


class NotEnoughImages(NeroliError):
    """There are too few images for what was asked: none, an empty class, or no guarantee."""


class NotCalibrated(NeroliError):
    """A guard was asked for verdicts before it was calibrated."""


class CalibrationOverlap(NeroliError):
    """Calibration images were also training images, so no false-alarm rate could be promised."""


class ClassMapError(NeroliError):
    """Image folders cannot be matched to the model's classes."""


class ArtefactError(NeroliError):
    """A saved guard or activation store is missing, damaged, too new, or of another model."""


class EngineError(NeroliError):
    """Work on several processes or machines cannot start, stalled, or lost its workers for good."""


class FailedElsewhere(EngineError):
    """Another process of the same run failed, and says why."""


class RecordsError(NeroliError):
    """The records of a server cannot be read or written: damaged, too new, or a full disk."""


class UnknownRecord(InvalidInput):
    """There is no record of this id, or it was dropped since."""


class NeroliWarning(UserWarning):
    """Something the user should know that does not stop the work."""
