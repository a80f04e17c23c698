"""Commands that tell where something comes from: weights, licences, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.root import app, examples


@app.command(
    epilog=examples(
        "mien weights",
        "mien weights facecycle",
    )
)
def weights(
    name: Annotated[
        str | None,
        typer.Argument(help="Shipped name or .safetensors file: print its whole card."),
    ] = None,
) -> None:
    """List the shipped weights, or print the card of one."""
    import json

    from mien import weights as shelf
    from mien.edit.best import card_tasks

    if name is not None:
        print(json.dumps(shelf.card(name), indent=2, ensure_ascii=False))
        return
    for each in shelf.shipped():
        card = shelf.card(each)
        edits = ", ".join(card_tasks(card)) or "none"
        print(f"{each}\n  method: {card['method']}\n  edits: {edits}")
        print(f"  licence: {card.get('licence', 'not stated')}")


@app.command(
    epilog=examples(
        "mien convert ffhq.pkl --out ffhq.safetensors",
        "mien convert stylegan2-ffhq-config-f.pt --out ffhq.safetensors",
    )
)
def convert(
    file: Annotated[
        Path, typer.Argument(help="StyleGAN2: NVIDIA's .pkl, rosinality's .pt, pSp or e4e.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of weights, .safetensors.")],
) -> None:
    """Convert a published generator into weights, without executing anything in it."""
    from mien.methods.stylegan_official import convert as run

    c = run(file, out).config
    print(f"{out}: {c.size} px, channel_base {c.channel_base}, channel_max {c.channel_max}")


@app.command(
    epilog=examples(
        "mien licences",
        "mien licences facecycle TABLE --commercial",
        "mien licences runs/pcl/weights.safetensors --commercial",
    )
)
def licences(
    loaded: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WEIGHTS|TABLE]...",
            help="Shipped names, .safetensors files and tables of faces; all that ships if none.",
        ),
    ] = None,
    commercial: Annotated[
        bool,
        typer.Option("--commercial", help="Fail where the terms forbid commercial use."),
    ] = False,
) -> None:
    """Print under which terms code, weights, pictures, data sets and packages stand."""
    from mien.weights.licences import check_commercial
    from mien.weights.licences import licences as run

    found = run(loaded or ())
    for part, entries in found.items():
        print(part)
        for name, terms in entries.items():
            print(f"  {name}: {terms}")
    if commercial:
        check_commercial(found)


@app.command(
    epilog=examples(
        "mien inspect edited.png",
    )
)
def inspect(
    file: Annotated[Path, typer.Argument(help="A picture, or an MP4 video.")],
) -> None:
    """Show a file's history and whether it was changed since. Exits with 1 if altered."""
    from mien.faces.provenance import inspect as run

    found = run(file)
    print(found)
    if found.state == "altered":
        raise typer.Exit(1)


@app.command(epilog=examples("mien verify edited.png"), hidden=True)
def verify(
    file: Annotated[Path, typer.Argument(help="A picture, or an MP4 video.")],
) -> None:
    """Do what inspect does, under its former name."""
    inspect(file)
