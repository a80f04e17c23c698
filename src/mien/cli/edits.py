"""Commands that take photos (demo, edit, grid, embed), and export, which makes one of a file."""

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
        "mien embed onnx:identity_teacher.onnx,mean=127,std=128 TABLE --out teacher.parquet",
        "mien embed pcl TABLE --out codes/ --num-shards 16 --shard 3",
    )
)
def embed(
    encoder: Annotated[
        str,
        typer.Argument(
            help="Shipped name, .safetensors file, or another encoder: onnx:FILE[,mean=N][,std=N]"
            "[,size=N][,channels=bgr][,output=NAME], dlib:FILE, NAME@CODE, hog, lbp."
        ),
    ],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SRC...", help="Pictures, folders, or tables of faces."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Parquet file, one row a face; with --num-shards a folder of them."
        ),
    ],
    face: Annotated[
        str, typer.Option(help="all, only, largest, central, or a number (0 is the largest).")
    ] = "all",
    detector: Detector = "dlib",
    batch_size: Annotated[int, typer.Option(help="Faces in a call of the network.")] = 64,
    num_shards: Annotated[
        int | None, typer.Option(help="Cut the pictures into so many files.")
    ] = None,
    shard: Annotated[
        int | None, typer.Option(help="Write this one only, from 0; the others elsewhere.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="What runs weights: torch, or onnx (onnxruntime).")
    ] = "torch",
) -> None:
    """Write the codes of every face. Codes can tell who a person is: keep them private.

    The same command after a stop goes on where it was; finished shards are left as they are.
    """
    from mien.scale.files import embed_files as run

    found = run(
        encoder,
        sources,
        out,
        num_shards=num_shards,
        shard=shard,
        face=face,
        detector=detector,
        batch_size=batch_size,
        backend=backend,
        progress=True,
    )
    for reason in found.skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    was = f" ({found.kept} of {len(found.files)} files were there)" if found.kept else ""
    print(f"{found.faces} faces in {out}{was}")


@app.command(
    epilog=examples(
        "mien export pcl --onnx pcl.onnx",
        "mien export facecycle --task neutralise --onnx neutralise.onnx",
        "mien embed onnx:pcl.onnx photos/ --out codes.parquet",
    )
)
def export(
    weights: WeightsFile,
    onnx: Annotated[Path, typer.Option("--onnx", help="ONNX file to write.")],
    task: Annotated[
        TaskName | None, typer.Option(help="Edit to export; without it the encoder.")
    ] = None,
) -> None:
    """Write an encoder or an edit as ONNX, after comparing it with torch."""
    from mien.export.onnx import export as run

    made = run(weights, onnx, None if task is None else task.value)
    print(f"{made.path}: {', '.join(made.outputs)}; differs from torch by {made.difference:.1e}")
