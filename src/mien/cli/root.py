"""What the commands hang on and share: the application, its examples, common options."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="mien",
    help="Take a face apart - identity, expression, pose, appearance - and put it back together.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts faster and reads the same everywhere
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

WeightsFile = Annotated[str, typer.Argument(help="Shipped name or .safetensors file.")]
Detector = Annotated[
    str,
    typer.Option(help="Face detector: dlib, or crop for pictures that are face crops already."),
]


def examples(*lines: str) -> str:
    """Return an epilog that is not re-wrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mien {version('mien')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
