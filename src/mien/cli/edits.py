"""Commands that take photos (demo, edit, grid, embed), and export, which makes one of a file."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.root import Detector, WeightsFile, app, examples
from mien.edit.tasks import TASKS
from mien.files.errors import ConfigError

Weights = Annotated[
    str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file (mien weights).")
]
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


def _noted(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Note a step: options are processed in the order in which they were given."""
    if value:
        values = value if isinstance(value, list) else [None]
        for one in values:
            ctx.meta.setdefault("steps", []).append((str(param.name).replace("_", "-"), one))
    return value


def _flag(task: str) -> Any:
    return typer.Option(f"--{task}", callback=_noted, help=_said(task))


def _driven(task: str, metavar: str = "DRIVER", more: str = "") -> Any:
    help = f"{_said(task)} {metavar} is the photo of the face that says how{more}."
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
        "mien edit clip.mp4 --neutralise --out calm.mp4",
        "mien edit me.jpg --makeup look.jpg --region skin=0.3 --method FILE --out new.png",
        "mien edit photos/ --makeup looks/ --method FILE --out edited/",
        "mien edit me.jpg --makeup a.jpg --share 0.7 --makeup b.jpg --share 0.3 --method FILE "
        "--out mixed.png",
    )
)
def edit(
    ctx: typer.Context,
    sources: Annotated[
        list[Path], typer.Argument(metavar="SRC...", help="Pictures, folders of them, or videos.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for one photo or video, or a folder.")
    ],
    neutralise: Annotated[bool, _flag("neutralise")] = False,
    frontalise: Annotated[bool, _flag("frontalise")] = False,
    expression: Annotated[list[Path] | None, _driven("expression")] = None,
    pose: Annotated[list[Path] | None, _driven("pose")] = None,
    identity: Annotated[list[Path] | None, _driven("identity", "SOURCE")] = None,
    attributes: Annotated[list[Path] | None, _driven("attributes")] = None,
    makeup: Annotated[list[Path] | None, _driven("makeup", "REFERENCE", ", or a folder")] = None,
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
        str | None,
        typer.Option(
            help="only, largest, central, all, or a number (0 is the largest). Without: only; in "
            "videos largest."
        ),
    ] = None,
    driver_face: Annotated[str, typer.Option(help="Which face of the driver.")] = "only",
    detector: Detector = "dlib",
    region: Annotated[
        list[str] | None,
        typer.Option(help="NAME=STRENGTH, for make-up: lips, eyes or skin; as often as you like."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="How much a --makeup reference counts; one each, in their order. Without, each "
            "face gets the reference that is turned and lit most like it."
        ),
    ] = None,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance/--no-provenance",
            help="Sign what is written: a C2PA manifest and an EXIF note.",
        ),
    ] = True,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write a report card (PNG and JSON) beside each photo, and their summary.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Edit again what an earlier run has finished.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Of a video: go on where an interrupted run stopped.")
    ] = False,
) -> None:
    """Edit the faces of photos and videos, in the order of the options. What is written says so."""
    from mien.edit.chain import Step
    from mien.edit.many import compare, edit_photos
    from mien.edit.video import edit_videos, is_video
    from mien.faces.provenance import OMITTED

    if not provenance:
        print(f"mien: {OMITTED}", file=sys.stderr)
    named = None if method == "all" else method
    regions = _strengths(region or []) or None
    looks = [driver for task, driver in ctx.meta.get("steps", []) if TASKS[task].several]
    steps: list[Step] = []
    for task, driver in ctx.meta.get("steps", []):
        some = regions if TASKS[task].landmarks else None
        if not TASKS[task].several:
            steps.append(Step(task, driver, strength, named, some))
        elif driver is looks[0]:  # several references are one step
            steps.append(Step(task, looks, strength, named, some, share or None))
    if share and not looks:
        raise ConfigError("--share is for --makeup; leave it out.")
    if regions and not any(step.regions for step in steps):
        raise ConfigError("--region is for --makeup and --remove-makeup; leave it out.")
    common: dict[str, Any] = {
        "out": out,
        "driver_face": driver_face,
        "detector": detector,
        "provenance": provenance,
        "progress": True,
    }
    videos = [source for source in sources if is_video(source)]
    if videos and (report or method == "all"):
        what = "--report" if report else "--method all"
        raise ConfigError(f"{what} is for photos, not for videos ({videos[0]}); leave it out.")
    if resume and not videos:
        raise ConfigError("--resume is for videos; photos that are finished are not done again.")
    if videos:
        films = edit_videos(videos, steps, face=face or "largest", resume=resume, **common)
        for reason in films.skipped.values():
            print(f"skipped: {reason}", file=sys.stderr)
        for film in films.written:
            for warning in film.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(
                f"{film.path}: {film.edited} of {film.frames} frames edited; "
                f"no face to edit in {film.without_face}"
            )
        sources = [source for source in sources if source not in videos]
        if not sources:
            return
    common["face"] = face or "only"
    if method == "all":
        if report:
            raise ConfigError("--report is of one method; leave it or --method all out.")
        done = compare(sources, steps, **common)
    else:
        done = edit_photos(sources, steps, overwrite=overwrite, report=report, **common)
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for reason in done.skipped.values():
        print(f"skipped: {reason}", file=sys.stderr)
    for path in done.written:
        print(path)
    if done.report:
        print(done.report)
    if done.finished:
        print(f"{len(done.finished)} were finished before (--overwrite edits them again)")


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
        "mien grid makeup photos/ --reference looks/ --weights FILE --out sheet.jpg",
    )
)
def grid(
    kind: Annotated[
        str,
        typer.Argument(
            help="residue: where an expression shows, by layer (derl); attributes: new pictures of "
            "a person (ipgan); interpolation: from one face's attributes to the next one's "
            "(ipgan); makeup: every --reference on every photo (pairedcyclegan)."
        ),
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Pictures or folders.")],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")],
    count: Annotated[int, typer.Option(help="Drawn pictures of a face.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn at random.")] = 0,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Picture or folder with make-up, for makeup; may be repeated."),
    ] = None,
    detector: Detector = "dlib",
) -> None:
    """Draw what a method sees in faces or makes of them, one row a face, marked as edited."""
    if kind == "makeup":
        from mien.edit.makeup_sheet import write_makeup_sheet

        said = write_makeup_sheet(
            sources, reference or (), out=out, weights=weights, detector=detector
        )
        for warning in said:
            print(f"warning: {warning}", file=sys.stderr)
        print(out)
        return
    if reference:
        raise ConfigError("--reference is for the grid makeup; leave it out.")
    from mien.edit.grids import write_grid as run

    print(run(kind, sources, out=out, weights=weights, count=count, seed=seed, detector=detector))


@app.command(
    epilog=examples(
        "mien embed facecycle photos/ --out codes.parquet",
        "mien embed runs/facecycle/weights.safetensors TABLE --out codes.parquet",
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
