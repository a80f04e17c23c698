"""How many requests a second does ``mien serve`` answer, beside the same model one by one?

Clients that each wait for their answer ask for codes of shipped photos over loopback. An answer
503 is waited out as its Retry-After says. Any answer but 200 and 503 ends the benchmark with an
error. The peer, in turns with it, works the same photos off one by one in this process: read,
find, encode. ``--detector crop`` leaves detection out on both sides.

    python benchmarks/serve.py --clients 200 --seconds 60 --out serve.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mien
from mien.files.atomic import write_json

PHOTOS = sorted((Path(mien.__file__).parent / "assets").glob("*.jpg"))


def one_by_one(weights: str, detector: str, seconds: float) -> float:
    """Photos a second of a plain loop."""
    from mien.edit.photos import Editor
    from mien.faces.image import read_image

    editor = Editor(weights, detector)
    data = [file.read_bytes() for file in PHOTOS]

    def work(k: int) -> None:
        face = editor.find(read_image(data[k % len(data)]))[0]
        editor.encode([face.crop])

    for k in range(3):
        work(k)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work(done)
        done += 1
    return done / (time.perf_counter() - start)


def request(photo: bytes, port: int) -> bytes:
    """A whole HTTP request, so that the clients cost little."""
    form = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n'
    body = form + photo + b"\r\n--x--\r\n"
    head = (
        f"POST /embed HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    return head.encode() + body


async def client(port: int, requests: list[bytes], end: float, seen: Counter[int]) -> None:
    """Ask again and again over one connection; open it anew if it was closed between requests."""
    reader = writer = None
    turn = 0
    while time.monotonic() < end:
        if writer is None or reader is None or reader.at_eof():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(requests[turn % len(requests)])
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        status = int(head.split(" ", 2)[1])
        seen[status] += 1
        if status == 200:
            turn += 1
        elif status == 503:
            await asyncio.sleep(int(fields["retry-after"]))
        else:
            raise SystemExit(f"an answer {status}")
        if fields.get("connection") == "close":
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


def memory(pid: int) -> float:
    """Resident MiB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def load(port: int, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Put the server under load; memory is sampled all along."""
    requests = [request(file.read_bytes(), port) for file in PHOTOS]
    seen: Counter[int] = Counter()
    start = time.monotonic()
    tasks = [
        asyncio.create_task(
            client(port, requests[i % len(requests) :] + requests, start + seconds, seen)
        )
        for i in range(clients)
    ]
    samples = []
    while not all(t.done() for t in tasks):
        samples.append(memory(pid))
        await asyncio.sleep(seconds / 60)
    await asyncio.gather(*tasks)
    passed = time.monotonic() - start
    third = max(1, len(samples) // 3)
    return {
        "answers": {str(status): count for status, count in sorted(seen.items())},
        "per_second": seen[200] / passed,
        "memory_mib": {
            "middle third": statistics.median(samples[third : 2 * third] or samples),
            "last third": statistics.median(samples[-third:]),
        },
    }


def measure(
    clients: int,
    seconds: float,
    weights: str = "facecycle",
    detector: str = "dlib",
    rounds: int = 1,
) -> dict[str, Any]:
    """Both, in turns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mien.cli", "serve", weights, "--port", str(port)]
    server = subprocess.Popen([*command, "--detector", detector])
    found: list[dict[str, Any]] = []
    try:
        _wait(port, server)
        asyncio.run(load(port, server.pid, min(clients, 16), 2))  # warm
        for _ in range(rounds):
            loop = one_by_one(weights, detector, max(2.0, seconds / 6))
            served = asyncio.run(load(port, server.pid, clients, seconds))
            found.append({**served, "one_by_one": loop, "ratio": served["per_second"] / loop})
    finally:
        server.terminate()
        server.wait(20)
    return {
        "clients": clients,
        "seconds": seconds,
        "weights": weights,
        "detector": detector,
        "ratio": statistics.median(r["ratio"] for r in found),
        "rounds": found,
        "host": {"processors": os.cpu_count(), "machine": platform.machine()},
    }


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server did not start")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not answer")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--weights", default="facecycle")
    parser.add_argument("--detector", default="dlib")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(
        options.clients, options.seconds, options.weights, options.detector, options.rounds
    )
    print(json.dumps(found, indent=1))
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
