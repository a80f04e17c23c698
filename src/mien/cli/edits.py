"""Commands that take photos: demo, edit, embed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.root import Detector, WeightsFile, app, examples
from mien.edit.tasks import TASKS

Weights = Annotated[
    str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file (mien weights).")
]


@app.command(
    epilog=examples(
        "mien demo",
        "mien demo me.jpg friend.jpg --out mien-demo",
    )
)
def demo(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PHOTO]...", help="Your photos; shipped pictures if none."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")] = Path(
        "mien-demo"
    ),
    weights: Weights = "facecycle",
    detector: Detector = "dlib",
    identity: Annotated[
        bool,
        typer.Option("--identity", help="Show edits of identity too (rough: drawn at 64 pixels)."),
    ] = False,
) -> None:
    """Take faces apart and put them together again, on one HTML page."""
    from mien.demo import demo as run

    page = run(photos or (), out=out, weights=weights, detector=detector, identity=identity)
    print(f"Open {page}")


def _noted(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Note a step: options are processed in the order in which they were given."""
    if value:
        values = value if isinstance(value, list) else [None]
        for one in values:
            ctx.meta.setdefault("steps", []).append((str(param.name).replace("_", "-"), one))
    return value


def _flag(task: str) -> Any:
    return typer.Option(f"--{task}", callback=_noted, help=_said(task))


def _driven(task: str, metavar: str = "DRIVER") -> Any:
    help = f"{_said(task)} {metavar} is the photo of the face that says how."
    return typer.Option(f"--{task}", metavar=metavar, callback=_noted, help=help)


def _said(task: str) -> str:
    summary = TASKS[task].summary
    return f"{summary[0].upper()}{summary[1:]}."


@app.command(
    epilog=examples(
        "mien edit me.jpg --neutralise --out calm.png",
        "mien edit me.jpg --neutralise --expression friend.jpg --strength 0.7 --out edited/",
        "mien edit photos/ --frontalise --face largest --out edited/",
        "mien edit me.jpg --neutralise --method all --out sheets/",
    )
)
def edit(
    ctx: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Pictures or folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for one photo, or a folder.")],
    neutralise: Annotated[bool, _flag("neutralise")] = False,
    frontalise: Annotated[bool, _flag("frontalise")] = False,
    expression: Annotated[list[Path] | None, _driven("expression")] = None,
    pose: Annotated[list[Path] | None, _driven("pose")] = None,
    identity: Annotated[list[Path] | None, _driven("identity", "SOURCE")] = None,
    attributes: Annotated[list[Path] | None, _driven("attributes")] = None,
    makeup: Annotated[list[Path] | None, _driven("makeup", "REFERENCE")] = None,
    remove_makeup: Annotated[bool, _flag("remove-makeup")] = False,
    mean_face: Annotated[bool, _flag("mean-face")] = False,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            "--weights",
            "-w",
            help="Shipped weights or .safetensors file instead of the best for each task; all: "
            "a sheet of everything that can do it.",
        ),
    ] = None,
    strength: Annotated[float, typer.Option(help="From 0 (unchanged) to 1.")] = 1.0,
    face: Annotated[
        str, typer.Option(help="only, largest, central, all, or a number (0 is the largest).")
    ] = "only",
    driver_face: Annotated[str, typer.Option(help="Which face of the driver.")] = "only",
    detector: Detector = "dlib",
    report: Annotated[
        bool,
        typer.Option("--report", help="Write a report card (PNG and JSON) beside each photo."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Edit again what an earlier run has finished.")
    ] = False,
) -> None:
    """Edit the faces of photos, in the order of the options. What is written says so."""
    from mien.edit.chain import Step
    from mien.edit.many import compare, edit_photos

    named = None if method == "all" else method
    steps = [Step(task, driver, strength, named) for task, driver in ctx.meta.get("steps", [])]
    common = {"out": out, "face": face, "driver_face": driver_face, "detector": detector}
    if method == "all":
        done = compare(sources, steps, progress=True, **common)
    else:
        done = edit_photos(
            sources, steps, overwrite=overwrite, report=report, progress=True, **common
        )
    for reason in done.skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    for path in done.written:
        print(path)
    if done.finished:
        print(f"{len(done.finished)} were finished before (--overwrite edits them again)")


@app.command(
    epilog=examples(
        "mien embed facecycle photos/ --out codes.parquet",
        "mien embed runs/facecycle/laptop/weights.safetensors TABLE --out codes.parquet",
    )
)
def embed(
    weights: WeightsFile,
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SRC...", help="Pictures, folders, or tables of faces."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file, one row a face.")],
    face: Annotated[
        str, typer.Option(help="all, only, largest, central, or a number (0 is the largest).")
    ] = "all",
    detector: Detector = "dlib",
    batch_size: Annotated[int, typer.Option(help="Faces in a call of the network.")] = 64,
) -> None:
    """Write the codes of every face. Codes can tell who a person is: keep them private."""
    from mien.edit.codes import embed as run

    found = run(
        weights,
        sources,
        out=out,
        face=face,
        detector=detector,
        batch_size=batch_size,
        progress=True,
    )
    for reason in found.skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    print(f"{found.table.num_rows} faces in {out}")
