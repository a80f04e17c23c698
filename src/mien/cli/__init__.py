"""The command line: verbs to functions, no logic. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from mien.edit.tasks import TASKS
from mien.files.errors import MienError

app = typer.Typer(
    name="mien",
    help="Take a face apart - identity, expression, pose, appearance - and put it back together.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts faster and reads the same everywhere
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _examples(*lines: str) -> str:
    """Return an epilog that is not re-wrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mien {version('mien')}")
        raise typer.Exit


Sources = Annotated[list[Path], typer.Argument(metavar="SRC...", help="Pictures or folders.")]
Weights = Annotated[
    str, typer.Option("--weights", "-w", help="Shipped name or .safetensors file (mien weights).")
]
Detector = Annotated[
    str,
    typer.Option(help="Face detector: dlib, or crop for pictures that are face crops already."),
]
TaskName = Enum("TaskName", {name: name for name in TASKS}, type=str)  # type: ignore[misc]


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_examples(
        "mien demo",
        "mien demo me.jpg friend.jpg --out mien-demo",
    )
)
def demo(
    photos: Annotated[
        Optional[list[Path]],  # noqa: UP045  (typer reads annotations at run time on Python 3.10)
        typer.Argument(metavar="[PHOTO]...", help="Your photos; shipped pictures if none."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")] = Path(
        "mien-demo"
    ),
    weights: Weights = "facecycle",
    detector: Detector = "dlib",
    identity: Annotated[
        bool, typer.Option("--identity", help="Show edits of identity too (weak as yet).")
    ] = False,
) -> None:
    """Take faces apart and put them together again, on one HTML page."""
    from mien.demo import demo as run

    page = run(photos or (), out=out, weights=weights, detector=detector, identity=identity)
    print(f"Open {page}")


@app.command(
    epilog=_examples(
        "mien edit neutralise me.jpg --out calm.png",
        "mien edit expression me.jpg --driver friend.jpg --strength 0.7 --out edited/",
        "mien edit frontalise photos/ --face largest --out edited/",
    )
)
def edit(
    task: Annotated[
        TaskName,
        typer.Argument(help="; ".join(f"{t.name}: {t.summary}" for t in TASKS.values()) + "."),
    ],
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for one photo, or a folder.")],
    driver: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Photo whose expression or identity is put on."),
    ] = None,
    strength: Annotated[float, typer.Option(help="From 0 (unchanged) to 1.")] = 1.0,
    face: Annotated[
        str, typer.Option(help="only, largest, central, all, or a number (0 is the largest).")
    ] = "only",
    driver_face: Annotated[str, typer.Option(help="Which face of the driver.")] = "only",
    weights: Weights = "facecycle",
    detector: Detector = "dlib",
) -> None:
    """Edit the faces of photos. Every picture written says that it was edited."""
    from mien.edit.photos import edit_each as run

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
    ):
        print(edited.path)


@app.command(
    epilog=_examples(
        "mien embed facecycle photos/ --out codes.parquet",
        "mien embed runs/facecycle/laptop/weights.safetensors TABLE --out codes.parquet",
    )
)
def embed(
    weights: Annotated[str, typer.Argument(help="Shipped name or .safetensors file.")],
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


@app.command(
    epilog=_examples(
        "mien evaluate facecycle untrained:facecycle pixels hog lbp --data DATA --out report",
        "mien evaluate onnx:model.onnx --task lfw --data DATA --out report",
        "mien evaluate facecycle --task pose --task action-units --table TABLE --out report",
        "mien evaluate facecycle --task pose --table pose_npz:300W_LP --test-table "
        "pose_npz:AFLW2000.npz",
    )
)
def evaluate(
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER...",
            help="Weights, untrained:WEIGHTS, pixels, hog, lbp or onnx:FILE; options as "
            "NAME,key=value.",
        ),
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder that holds fer2013/, rafdb/, lfw/ or cplfw/."),
    ] = None,
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            "-t",
            help="fer2013, rafdb, lfw, cplfw; of --table: expression, pose, action-units; may be "
            "repeated.",
        ),
    ] = ["fer2013", "lfw"],  # noqa: B006  (typer's way; never changed)
    table: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Table of faces, or READER:DIR for crops; may be repeated."),
    ] = None,
    test_table: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Test on this table, train on --table; may be repeated."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for report.json, report.md and figures."),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="FER-2013: train without copies of test pictures.")
    ] = False,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average the embeddings of a picture and its mirror.")
    ] = False,
    align: Annotated[
        bool,
        typer.Option("--align", help="FER-2013: align the pictures by the landmark network first."),
    ] = False,
    protocol: Annotated[
        str, typer.Option(help="mien, or the probe and choices of facecycle or pcl.")
    ] = "mien",
    knn: Annotated[
        bool, typer.Option("--knn", help="Expressions: nearest neighbours too.")
    ] = False,
    few_labels: Annotated[
        bool, typer.Option("--few-labels", help="Expressions: with 1 % and 10 % of labels too.")
    ] = False,
    folds: Annotated[
        int, typer.Option(help="Folds of persons where a table has no test split; 0: 5, units 3.")
    ] = 0,
    cut: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Intensity from which an action unit counts; as the set has it."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Faces of each table at random; 0: all.")] = 0,
    tsne: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Column to colour a t-SNE map by; may be repeated."),
    ] = None,
    umap: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Column to colour a UMAP map by; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of PCA and bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures in a call of an encoder.")] = 64,
    cache: Annotated[bool, typer.Option(help="Keep embeddings in the user's cache.")] = True,
) -> None:
    """Measure encoders on public test sets and tables of faces, beside the published figures."""
    from mien.evaluate.report import evaluate as run

    report = run(
        encoders,
        task,
        data=data,
        tables=table or (),
        test_tables=test_table or (),
        out=out,
        protocol=protocol,
        knn=knn,
        few_labels=few_labels,
        folds=folds,
        cut=cut,
        limit=limit,
        tsne=tsne or (),
        umap=umap or (),
        clean=clean,
        flip=flip,
        align=align,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    epilog=_examples(
        "mien leakage facecycle --table tables/faces --out report",
        "mien leakage onnx:arcface.onnx --table tables/faces --factor yaw --factor expression",
    )
)
def leakage(
    encoder: Annotated[
        str, typer.Argument(help="Weights (taken apart into their codes) or any other encoder.")
    ],
    table: Annotated[
        list[str], typer.Option(help="Table of faces, or READER:DIR for crops; may be repeated.")
    ],
    factor: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Factor to decode; all that the table is labelled with if not given."),
    ] = None,
    whole: Annotated[
        str,
        typer.Option(help="Encoder that stands for the whole face; HOG and colours if not given."),
    ] = "",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for leakage.json, leakage.md and leakage.png."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Faces of each table at random; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of splits, components and kernel.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Faces in a call of the encoder.")] = 64,
    cache: Annotated[bool, typer.Option(help="Keep embeddings in the user's cache.")] = True,
) -> None:
    """Show what each code gives away: who, which expression, which pose, which light."""
    from mien.evaluate.leakage import evaluate_leakage as run

    report = run(
        encoder,
        table,
        factors=factor or (),
        whole=whole,
        out=out,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    epilog=_examples(
        "mien reproduce facecycle --data DATA --out report",
        "mien reproduce pcl runs/pcl/weights.safetensors --data DATA",
    )
)
def reproduce(
    publication: Annotated[str, typer.Argument(help="facecycle or pcl.")],
    data: Annotated[
        Path,
        typer.Option(help="Folder of fer2013/, rafdb/, lfw/, cplfw/, 300w_lp/ and aflw2000/."),
    ],
    encoder: Annotated[
        str, typer.Argument(help="Encoder; the shipped weights of that name if not given.")
    ] = "",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for reproduce.json and reproduce.md."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures in a call of the encoder.")] = 64,
    cache: Annotated[bool, typer.Option(help="Keep embeddings in the user's cache.")] = True,
) -> None:
    """Put a publication's figures beside ours, measured as it measured them."""
    from mien.evaluate.publications import reproduce as run

    done = run(
        publication, encoder, data=data, out=out, seed=seed, batch_size=batch_size, cache=cache
    )
    print(done.markdown())


@app.command(
    name="evaluate-edits",
    epilog=_examples(
        "mien prepare london:LONDON --out tables/london",
        "mien evaluate-edits facecycle tables/london --out report",
    ),
)
def evaluate_edits(
    weights: Annotated[str, typer.Argument(help="Shipped name or .safetensors file.")],
    table: Annotated[
        Path, typer.Argument(help="Table with a neutral and another picture of each person.")
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for the JSON and Markdown reports."),
    ] = None,
) -> None:
    """Measure neutralising and expression transfer against the true pictures of the persons."""
    from mien.evaluate.edits import evaluate_edits as run

    print(run(weights, table, out=out).markdown())


@app.command(
    name="evaluate-landmarks",
    epilog=_examples(
        "mien evaluate-landmarks --data DATA --out report",
        "mien evaluate-landmarks --data DATA --set lfw --detector dlib",
    ),
)
def evaluate_landmarks(
    data: Annotated[Path, typer.Option(help="Folder that holds annotations/ and the sets.")],
    sets: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="utkface, lfw, omi, london or ict_faces; all if not given."),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Landmark weights; the shipped ones if not given."),
    ] = None,
    detector: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Find the faces with this detector instead of jittered true boxes."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for the JSON and Markdown reports."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the boxes' jitter.")] = 0,
) -> None:
    """Measure landmarks and head pose on annotated people that were never trained on."""
    from mien.evaluate.landmarks import evaluate_landmarks as run

    report = run(data, sets or (), weights=weights, detector=detector, out=out, seed=seed)
    print(report.markdown())


@app.command(
    epilog=_examples(
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
        Optional[int],  # noqa: UP045
        typer.Option(help="Processes; as many as processors if not given."),
    ] = None,
    min_size: Annotated[float, typer.Option(help="Least size of a face in photo pixels.")] = 24.0,
    min_score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Least face probability; 0.5 where faces are searched for."),
    ] = None,
    max_yaw: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Largest turn to a side in degrees."),
    ] = None,
    max_pitch: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Largest turn up or down in degrees."),
    ] = None,
    max_roll: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Largest tilt in degrees."),
    ] = None,
    deduplicate: Annotated[bool, typer.Option(help="Leave out near-copies.")] = True,
    annotations: Annotated[
        Optional[Path],  # noqa: UP045
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
    epilog=_examples(
        "mien train facecycle/laptop --dry-run",
        "mien train facecycle/laptop batch_size=16 config.width=32 --out runs/mine",
        "mien train facecycle/laptop --out runs/mine --resume",
    )
)
def train(
    recipe: Annotated[str, typer.Argument(help="YAML file or name of a recipe.")],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the recipe's."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder of the run; runs/METHOD/RECIPE if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, cost and speed; train nothing.")
    ] = False,
    init_from: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Weights to start from: shipped name, .safetensors file or a run."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes, each with its batch.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        Optional[str],  # noqa: UP045
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
    epilog=_examples(
        "mien weights",
        "mien weights facecycle",
    )
)
def weights(
    name: Annotated[
        Optional[str],  # noqa: UP045
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


@app.command(epilog=_examples("mien licences"))
def licences() -> None:
    """Print under which terms code, weights, pictures, data sets and packages stand."""
    from mien.weights.licences import licences as run

    for part, entries in run().items():
        print(part)
        for name, terms in entries.items():
            print(f"  {name}: {terms}")


@app.command(
    epilog=_examples(
        "mien verify edited.png",
    )
)
def verify(
    file: Annotated[Path, typer.Argument(help="A picture.")],
) -> None:
    """Show how a picture was edited and whether it was changed since. Exits with 1 if altered."""
    from mien.edit.provenance import read_provenance

    found = read_provenance(file)
    if found is None:
        print(f"{file} does not say that mien edited it.")
        return
    print(found)
    if found.state == "altered":
        raise typer.Exit(1)


def main() -> None:
    """Run the command line: an error that a user can mend is one sentence and exit status 2."""
    warnings.formatwarning = lambda message, *_, **__: f"mien: {message}\n"
    try:
        app()
    except MienError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


def _fail(message: str) -> None:
    sentence = " ".join(message.split())
    print(f"mien: {sentence}{'' if sentence.endswith(('.', '?')) else '.'}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
    main()
