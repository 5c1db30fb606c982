"""How a server is run: its address, its limits, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from neroli.errors import InvalidInput

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Limits:
    """What clients may ask for; more is refused with 413, 429 or 503.

    Args:
        upload_bytes: of the body of a request with images.
        form_bytes: of any other body, such as a form with the longest note.
        pixels: of one image, decoded.
        images: in one request.
        pixels_at_once: of all images decoded at a time, three bytes each and more while decoding.
        bytes_at_once: of all bodies with images held at a time.
        requests_per_minute: of one client address; None does not count them.
        queue: images waiting for the network; further ones are refused with 503.
        explanations: likewise; each takes as long as many images.
        upload_seconds: to send the body of a request.

    Raises:
        InvalidInput: if a number is out of range, or one request could never be accepted.
    """

    upload_bytes: int = 32 * 2**20
    form_bytes: int = 32 * 2**10
    pixels: int = 50_000_000
    images: int = 64
    pixels_at_once: int = 200_000_000
    bytes_at_once: int = 256 * 2**20
    requests_per_minute: int | None = None
    queue: int = 256
    explanations: int = 8
    upload_seconds: float = 30.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise InvalidInput(f"The limit {limit.name} must be positive, got {value!r}.")
        for one, all_ in (
            ("images", "queue"),
            ("pixels", "pixels_at_once"),
            ("upload_bytes", "bytes_at_once"),
        ):
            if getattr(self, one) > getattr(self, all_):
                raise InvalidInput(
                    f"The limit {one} ({getattr(self, one):,}) is above {all_} "
                    f"({getattr(self, all_):,}), so that a request could wait for ever."
                )


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Args:
        host: address to listen on; any but loopback needs a token.
        port: to listen on; 0 takes a free one.
        token: that clients must send as ``Authorization: Bearer TOKEN``; None asks for none.
        hosts: names under which browsers reach the server, such as that of a proxy before it. On
            loopback no others are answered than these and its own.
        name: of the guard, as the Open Inference Protocol calls the model.
        batch_size: images through the network at a time.
        latency: seconds a request may wait for others to share a batch with.
        keep_thumbnails, keep_images: whether records hold a small picture, or the whole image;
            they may be patient data.
        keep_records: how many records are kept, the newest; None keeps all.
        limits: what clients may ask for.

    Raises:
        InvalidInput: if another address than loopback has no token, or a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    name: str = "guard"
    batch_size: int = 32
    latency: float = 0.01
    keep_thumbnails: bool = False
    keep_images: bool = False
    keep_records: int | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.token:
            raise InvalidInput(
                f"The address {self.host!r} can be reached from outside: give a token that clients "
                "must send (--token-file), or listen on 127.0.0.1."
            )
        if not 0 <= self.port < 2**16 or self.batch_size < 1 or self.latency < 0:
            raise InvalidInput("port must be 0 to 65535, batch_size 1 or more, latency 0 or more.")
