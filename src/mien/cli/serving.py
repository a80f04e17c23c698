"""Commands that wait for requests: serve, app."""

from __future__ import annotations

from typing import Annotated

import typer

from mien.cli.root import Detector, app, examples


@app.command(
    epilog=examples(
        "mien serve",
        "curl -F photo=@me.jpg http://127.0.0.1:8017/embed",
        "curl -F photo=@me.jpg 'http://127.0.0.1:8017/edit?task=neutralise' --output calm.png",
        "curl -F photo=@me.jpg -F other=@you.jpg http://127.0.0.1:8017/compare",
        "MIEN_TOKEN=$(openssl rand -hex 32) mien serve facecycle derl --host 0.0.0.0",
    )
)
def serve(
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WEIGHTS]...",
            help="Shipped names or .safetensors files, the default of requests first; facecycle "
            "if none.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address; any but a loopback address needs a token in MIEN_TOKEN."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 8017,
    detector: Detector = "dlib",
    requests: Annotated[
        int, typer.Option(help="Requests that wait or are worked on; the next gets 503.")
    ] = 64,
    batch: Annotated[int, typer.Option(help="Requests worked on together.")] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds until a request gets 503.")] = 30.0,
) -> None:
    """Serve codes, edits and comparisons over HTTP (/openapi.json says how)."""
    from mien.serve.server import serve as run
    from mien.serve.service import Limits

    limits = Limits(requests=requests, batch=batch, seconds=timeout)
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    run(weights or ["facecycle"], host=host, port=port, detector=detector, limits=limits)


@app.command(
    name="app",
    epilog=examples(
        "mien app --browser",
        "mien app facecycle runs/pcl/weights.safetensors --port 8020",
    ),
)
def web_app(
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WEIGHTS]...", help="Shipped names or .safetensors files; all shipped if none."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 8018,
    detector: Detector = "dlib",
    browser: Annotated[bool, typer.Option("--browser", help="Open a browser window.")] = False,
) -> None:
    """Open the local web app: upload a photo, move sliders, compare methods."""
    from mien.app.web import app as run

    print(f"http://127.0.0.1:{port}", flush=True)
    run(weights or (), port=port, detector=detector, browser=browser)
