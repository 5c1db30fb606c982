"""What reviewers meet and do: pictures, flagged records, and the forms of the review pages."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
from PIL import Image

from neroli.serve.scored import Scored
from neroli.serve.sessions import FORM_TOKEN
from networks import COLOURS
from recorded import scored
from serving import Client, colour_pictures, encoded

SECRET = "Doe_Jane_1970.png"


def usual_picture(seed: int = 5) -> bytes:
    """One the network knows, as a PNG."""
    return encoded(colour_pictures(1, seed)[0])


def unusual_picture() -> bytes:
    """One it does not, as a PNG: white above, black below."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    return encoded(Image.fromarray(pixels))


def record(number: int, guard: str, **changes: Any) -> Scored:
    """A record of a flagged image; the larger its number, the later and the less unusual."""
    values = {
        "id": f"{number:032x}",
        "at": 1_760_000_000.0 + 60 * number,
        "predicted_class": number % 3,
        "predicted_name": COLOURS[number % 3],
        "score": 3.0 - 0.01 * number,
        "p_value": (1 + number) / 1000,
        "guard": guard,
    }
    return scored(**(values | changes))


def filled(server: Client, count: int, **changes: Any) -> list[str]:
    """The ids of so many flagged records of the guard that is served."""
    records = [record(n, server.state.engine.guard_version, **changes) for n in range(count)]
    server.state.records.add(records)
    return [one.id for one in records]


def dropped(client: httpx.Client, image: bytes, token: str = FORM_TOKEN) -> httpx.Response:
    """The answer to an image that was dropped in."""
    parts = {"token": (None, token), "image": (SECRET, image, "image/png")}
    return client.post("/", files=parts)


def decided(client: httpx.Client, identity: str, **form: str) -> httpx.Response:
    """The answer to a decision."""
    values = {"token": FORM_TOKEN, "note": "", "back": ""} | form
    return client.post(f"/records/{identity}/decision", data=values)
