"""Commands that tell where something comes from: weights, licences, verify."""

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
    from mien.edit.tasks import task_names
    from mien.methods import method_class

    if name is not None:
        print(json.dumps(shelf.card(name), indent=2, ensure_ascii=False))
        return
    for each in shelf.shipped():
        card = shelf.card(each)
        edits = ", ".join(task_names(method_class(card["method"]))) or "none"
        print(f"{each}\n  method: {card['method']}\n  edits: {edits}")
        print(f"  licence: {card.get('licence', 'not stated')}")


@app.command(epilog=examples("mien licences"))
def licences() -> None:
    """Print under which terms code, weights, pictures, data sets and packages stand."""
    from mien.weights.licences import licences as run

    for part, entries in run().items():
        print(part)
        for name, terms in entries.items():
            print(f"  {name}: {terms}")


@app.command(
    epilog=examples(
        "mien verify edited.png",
    )
)
def verify(
    file: Annotated[Path, typer.Argument(help="A picture.")],
) -> None:
    """Show how a picture was edited and whether it was changed since. Exits with 1 if altered."""
    from mien.faces.provenance import read_provenance

    found = read_provenance(file)
    if found is None:
        print(f"{file} does not say that mien edited it.")
        return
    print(found)
    if found.state == "altered":
        raise typer.Exit(1)
