"""Commands that take photos: demo, edit, grid, embed."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.root import Detector, WeightsFile, app, examples
from mien.edit.tasks import TASKS
from mien.files.errors import ConfigError

Weights = Annotated[
    str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file (mien weights).")
]
_DRIVEN = ", ".join(t.name for t in TASKS.values() if t.driver)
TaskName = Enum("TaskName", {name: name for name in TASKS}, type=str)  # type: ignore[misc]


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


@app.command(
    epilog=examples(
        "mien edit neutralise me.jpg --out calm.png",
        "mien edit expression me.jpg --driver friend.jpg --strength 0.7 --out edited/",
        "mien edit frontalise photos/ --face largest --out edited/",
        "mien edit apply-makeup me.jpg --driver look.jpg --region skin=0.3 -w WEIGHTS -o new.png",
    )
)
def edit(
    task: Annotated[
        TaskName,
        typer.Argument(help="; ".join(f"{t.name}: {t.summary}" for t in TASKS.values()) + "."),
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Pictures or folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for one photo, or a folder.")],
    driver: Annotated[
        Path | None,
        typer.Option(help=f"Photo of the face that says how; needed for {_DRIVEN}."),
    ] = None,
    strength: Annotated[float, typer.Option(help="From 0 (unchanged) to 1.")] = 1.0,
    face: Annotated[
        str, typer.Option(help="only, largest, central, all, or a number (0 is the largest).")
    ] = "only",
    driver_face: Annotated[str, typer.Option(help="Which face of the driver.")] = "only",
    weights: Weights = "facecycle",
    detector: Detector = "dlib",
    region: Annotated[
        list[str] | None,
        typer.Option(help="NAME=STRENGTH, for make-up: lips, eyes or skin; as often as you like."),
    ] = None,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance",
            help="Sign what is written: a C2PA manifest and an EXIF note.",
        ),
    ] = True,
) -> None:
    """Edit the faces of photos. Every picture written says that it was edited."""
    from mien.edit.photos import edit_each as run
    from mien.faces.provenance import OMITTED

    if not provenance:
        print(f"mien: {OMITTED}", file=sys.stderr)
    for edited in run(
        task.value,
        sources,
        driver,
        out=out,
        strength=strength,
        weights=weights,
        face=face,
        driver_face=driver_face,
        detector=detector,
        regions=_strengths(region or []),
        provenance=provenance,
    ):
        print(edited.path)


def _strengths(pairs: list[str]) -> dict[str, float]:
    """Read NAME=STRENGTH."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--region is NAME=STRENGTH, such as lips=0.5, not {pair}.") from None
    return found


@app.command(
    epilog=examples(
        "mien grid residue me.jpg --weights derl --out residue.png",
        "mien grid attributes me.jpg --weights ipgan --count 8 --seed 1 --out new.png",
        "mien grid interpolation me.jpg friend.jpg --weights ipgan --out between.png",
    )
)
def grid(
    kind: Annotated[
        str,
        typer.Argument(
            help="residue: where an expression shows, by layer (derl); attributes: new pictures of "
            "a person (ipgan); interpolation: from one face's attributes to the next one's (ipgan)."
        ),
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Pictures or folders.")],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")],
    count: Annotated[int, typer.Option(help="Drawn pictures of a face.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn at random.")] = 0,
    detector: Detector = "dlib",
) -> None:
    """Draw what a method sees in faces or makes of them, one row a face, marked as edited."""
    from mien.edit.grids import write_grid as run

    print(run(kind, sources, out=out, weights=weights, count=count, seed=seed, detector=detector))


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
