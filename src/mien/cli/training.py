"""Commands that make tables of faces and train on them: prepare, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.root import Detector, app, examples


@app.command(
    epilog=examples(
        "mien prepare photos/ --out TABLE",
        "mien prepare utkface:UTKFace omi:OMI --out TABLE --workers 4",
        "mien prepare video:clips/ --every 10 --max-yaw 30 --out TABLE --resume",
    )
)
def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC...",
            help="Folders, pictures, videos, or NAME:DIR for a public data set in its own layout "
            "(mien licences names them).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the table.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off.")
    ] = False,
    crop: Annotated[
        str, typer.Option(help="tight, ffhq, or whole: the picture's central square.")
    ] = "tight",
    size: Annotated[int, typer.Option(help="Side of the crops in pixels.")] = 112,
    faces: Annotated[
        str, typer.Option(help="Of several in a photo: largest, central, all, or only (reject).")
    ] = "largest",
    detector: Detector = "dlib",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; as many as processors if not given."),
    ] = None,
    min_size: Annotated[float, typer.Option(help="Least size of a face in photo pixels.")] = 24.0,
    min_score: Annotated[
        float | None,
        typer.Option(help="Least face probability; 0.5 where faces are searched for."),
    ] = None,
    max_yaw: Annotated[
        float | None,
        typer.Option(help="Largest turn to a side in degrees."),
    ] = None,
    max_pitch: Annotated[
        float | None,
        typer.Option(help="Largest turn up or down in degrees."),
    ] = None,
    max_roll: Annotated[
        float | None,
        typer.Option(help="Largest tilt in degrees."),
    ] = None,
    deduplicate: Annotated[bool, typer.Option(help="Leave out near-copies.")] = True,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Parquet file with the landmarks of the pictures."),
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of the crops.")] = 95,
    every: Annotated[int, typer.Option(help="Of a video every n-th frame is taken.")] = 5,
    max_side: Annotated[
        int, typer.Option(help="Larger photos are searched and cut at this size.")
    ] = 1600,
) -> None:
    """Make a table of faces out of pictures, videos and public data sets."""
    from mien.data.prepare import prepare as run

    info = run(
        sources,
        out,
        detector=detector,
        crop=crop,
        size=size,
        resume=resume,
        workers=workers,
        faces=faces,
        min_size=min_size,
        min_score=min_score,
        max_yaw=max_yaw,
        max_pitch=max_pitch,
        max_roll=max_roll,
        deduplicate=deduplicate,
        annotations=annotations,
        quality=quality,
        every=every,
        max_side=max_side,
    )
    rejected = sum(info.get("rejected", {}).values())
    print(f"{info['faces']} faces in {out}, {rejected} rejected (rejected.csv says why)")


@app.command(
    epilog=examples(
        "mien train pcl/laptop --dry-run",
        "mien train pcl/laptop batch_size=66 config.width=32 --out runs/mine",
        "mien train pcl/laptop --out runs/mine --resume",
    )
)
def train(
    recipe: Annotated[str, typer.Argument(help="YAML file or name of a recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the recipe's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; runs/METHOD/RECIPE if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, cost and speed; train nothing.")
    ] = False,
    init_from: Annotated[
        str | None,
        typer.Option(help="Weights to start from: shipped name, .safetensors file or a run."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes, each with its batch.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads a process; 0: all.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard event files too.")
    ] = False,
) -> None:
    """Train a method as a recipe says."""
    from mien.train.loop import train as run

    folder = run(
        recipe,
        overrides=overrides or (),
        out=out,
        resume=resume,
        dry_run=dry_run,
        init_from=init_from,
        devices=devices,
        accelerator=accelerator,
        precision=precision,
        threads=threads,
        tensorboard=tensorboard,
    )
    if not dry_run:
        print(folder)


@app.command(
    "mine-makeup",
    epilog=examples(
        "mien mine-makeup TABLE --out TABLE-makeup",
        "mien mine-makeup TABLE --made-up 0.03 --out TABLE-makeup",
    ),
)
def mine_makeup(
    table: Annotated[Path, typer.Argument(help="Table of faces with landmarks.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new table.")],
    made_up: Annotated[float, typer.Option(help="Share of faces called made up.")] = 0.05,
    bare: Annotated[float, typer.Option(help="Share of faces called bare.")] = 0.3,
) -> None:
    """Guess who wears make-up from the colours of lips and lids; writes sheets to look at."""
    from mien.data.makeup_mining import MiningSettings
    from mien.data.makeup_mining import mine_makeup as run

    counts = run(table, out, MiningSettings(made_up, bare))
    print(
        f"{counts['made_up']} faces made up, {counts['bare']} bare, {counts['open']} left open; "
        f"look at {out}/made_up.jpg and bare.jpg"
    )
