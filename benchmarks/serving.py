"""The server under load: requests a second, their latency, refusals and memory.

    python benchmarks/serving.py [--seconds 20] [--clients 16] [--requests 20000]

A ResNet-20 guard with the default detector on loopback, one process with one network worker; 32x32
PNG files, one in a request, by clients in threads that keep their connections. With micro-batching
(the default) and without (batches of one, no waiting); then at saturation, with more clients than
the queue holds; then the memory of the server over many requests.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
from common import shared_data
from PIL import Image

WEIGHTS = "models/cifar10_resnet20.safetensors"
NORMALISE = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--resize", "32x32"]


def neroli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "neroli", *map(str, arguments)]


def fitted_guard(folder: Path) -> Path:
    shared, out = shared_data(), folder / "guard"
    with np.load(shared / "data" / "cifar10_test.npz") as data:
        np.savez(folder / "held-out.npz", images=data["images"][:2000])
    command = neroli("fit", "--model", "neroli.models.cifar:resnet20")
    command += ["--weights", str(shared / WEIGHTS), *NORMALISE, "--out", str(out)]
    command += ["--train", str(shared / "data" / "cifar10_train10k.npz")]
    command += ["--calibration", str(folder / "held-out.npz")]
    subprocess.run(command, check=True, capture_output=True)
    return out


def pictures(count: int) -> list[bytes]:
    with np.load(shared_data() / "data" / "cifar10_test.npz") as data:
        images = data["images"][2000 : 2000 + count]
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


class Server:
    """A server in a process of its own, ended by its id."""

    def __init__(self, guard: Path, records: Path, port: int, *options: object) -> None:
        command = neroli("serve", guard, "--records", records, "--port", port, *options)
        self.address = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Server:
        for _ in range(600):
            try:
                if httpx.get(f"{self.address}/v2/health/ready").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise TimeoutError("the server did not become ready")

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def megabytes(self) -> float:
        """Of its resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise OSError("this kernel does not report VmRSS")


def load(
    server: Server, files: Sequence[bytes], clients: int, seconds: float, requests: int = 0
) -> tuple[list[float], Counter[int], float]:
    """Latencies of answers with a verdict, how many answers of each status, and the time taken."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    lock, end = threading.Lock(), time.perf_counter() + seconds

    def client(number: int) -> None:
        with httpx.Client(base_url=server.address, timeout=60) as session:
            sent = 0
            while time.perf_counter() < end and (not requests or sent < requests // clients):
                start = time.perf_counter()
                image = files[(number * 7919 + sent) % len(files)]
                answer = session.post("/v1/score", files={"image": image})
                sent += 1
                with lock:
                    statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, statuses, time.perf_counter() - start


def told(name: str, found: tuple[list[float], Counter[int], float]) -> str:
    latencies, statuses, seconds = found
    p50, p99 = 1000 * np.quantile(latencies, [0.5, 0.99])
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    rate = len(latencies) / seconds
    return f"{name}: {rate:.0f} verdicts/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms ({answers})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--port", type=int, default=8731)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), pictures(500)
        guard = fitted_guard(folder)
        ways = {"micro-batching": [], "without": ["--batch-size", 1, "--latency", 0]}
        for way, settings in ways.items():
            with Server(guard, folder / f"{way}.sqlite", options.port, *settings) as server:
                load(server, files, options.clients, 3)  # warm
                print(told(way, load(server, files, options.clients, options.seconds)))
        with Server(guard, folder / "many.sqlite", options.port) as server:
            print(told("300 clients", load(server, files, 300, options.seconds)))
        with Server(guard, folder / "memory.sqlite", options.port) as server:
            load(server, files, options.clients, 600, requests=1000)
            print(f"memory: {server.megabytes():.0f} MB after 1,000 requests")
            for quarter in range(1, 5):
                load(server, files, options.clients, 3600, requests=options.requests // 4)
                sent = 1000 + quarter * options.requests // 4
                print(f"memory: {server.megabytes():.0f} MB after {sent:,} requests")
