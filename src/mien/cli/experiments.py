"""Commands that train and measure at once: ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.evaluation import Cache, ExpressionJudge, JudgeData
from mien.cli.root import app, examples


@app.command(
    epilog=examples(
        "mien ablate ipgan --images 76544 --init-from runs/ipgan_recognise --table tables/lfw "
        "--judge dlib:FILE --out runs/ipgan_ablations",
        "mien ablate derl --stage classify --images 90000 --init-from derl --out runs/derl_parts",
        "mien ablate pcl --images 184800 --only no-decoder --test-table tables/ict_faces --out "
        "runs/pcl_parts",
    )
)
def ablate(
    method: Annotated[str, typer.Argument(help="ipgan, derl or pcl.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the runs and of the table; the same again goes on."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of all variants."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Pictures of each training; 0: as the recipe says.")
    ] = 0,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", "--tables", help="Table to train on; the recipe's if none; may be repeated."
        ),
    ] = None,
    test_table: Annotated[
        list[str] | None,
        typer.Option(help="Table to measure on; those of the training if none; may be repeated."),
    ] = None,
    stage: Annotated[str, typer.Option(help="Stage, where the method has several.")] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Variant, beside the full method; all if none; may be repeated."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="Weights to start from: shipped name, .safetensors file or a run."),
    ] = None,
    judge: Annotated[str, typer.Option(help="Encoder that says whose face it is.")] = "",
    landmark_judge: Annotated[
        str, typer.Option(help="dlib:FILE, dlib's shape predictor; the shipped network if empty.")
    ] = "",
    expression_judge: ExpressionJudge = "",
    data: JudgeData = None,
    pairs: Annotated[int, typer.Option(help="Pairs of persons to swap.")] = 400,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    cache: Cache = True,
) -> None:
    """Train a method without each of its parts, at equal budget, and measure what it loses."""
    from mien.evaluate.ablations import ablate as run

    report = run(
        method,
        out=out,
        images=images,
        tables=table or (),
        test_tables=test_table or (),
        stage=stage,
        only=only or (),
        init_from=init_from,
        overrides=overrides or (),
        judge=judge,
        landmark_judge=landmark_judge,
        expression_judge=expression_judge,
        data=data,
        pairs=pairs,
        threads=threads,
        accelerator=accelerator,
        cache=cache,
    )
    print(report.markdown())
