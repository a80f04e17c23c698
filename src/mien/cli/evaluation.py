"""Commands that measure encoders, codes, edits and classifiers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.root import WeightsFile, app, examples

TABLE = typer.Option(help="Table of faces, or READER:DIR for crops; may be repeated.")
Limit = Annotated[int, typer.Option(help="Faces of each table at random; 0: all.")]
Cache = Annotated[bool, typer.Option(help="Keep embeddings in the user's cache.")]
Reports = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the JSON and Markdown reports.")
]
Sheet = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the JSON and Markdown reports and a sheet."),
]
ExpressionJudge = Annotated[
    str,
    typer.Option(help="Encoder; a linear probe on FER-2013 (--data) says which expression it is."),
]
JudgeData = Annotated[
    Path | None, typer.Option(help="Folder that holds fer2013/, for --expression-judge.")
]
Align = Annotated[
    bool, typer.Option(help="Fit --expression-judge on aligned pictures, as the judged ones are.")
]


@app.command(
    epilog=examples(
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
            help="Weights, untrained:WEIGHTS, pixels, hog, lbp, onnx:FILE or dlib:FILE; options "
            "as NAME,key=value.",
        ),
    ],
    data: Annotated[
        Path | None,
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
    table: Annotated[list[str] | None, TABLE] = None,
    test_table: Annotated[
        list[str] | None,
        typer.Option(help="Test on this table, train on --table; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
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
        float | None,
        typer.Option(help="Intensity from which an action unit counts; as the set has it."),
    ] = None,
    limit: Limit = 0,
    tsne: Annotated[
        list[str] | None,
        typer.Option(help="Column to colour a t-SNE map by; may be repeated."),
    ] = None,
    umap: Annotated[
        list[str] | None,
        typer.Option(help="Column to colour a UMAP map by; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of PCA and bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures in a call of an encoder.")] = 64,
    cache: Cache = True,
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
    epilog=examples(
        "mien leakage facecycle --table tables/faces --out report",
        "mien leakage onnx:arcface.onnx --table tables/faces --factor yaw --factor expression",
    )
)
def leakage(
    encoder: Annotated[
        str, typer.Argument(help="Weights (taken apart into their codes) or any other encoder.")
    ],
    table: Annotated[list[str], TABLE],
    factor: Annotated[
        list[str] | None,
        typer.Option(help="Factor to decode; all that the table is labelled with if not given."),
    ] = None,
    whole: Annotated[
        str,
        typer.Option(help="Encoder that stands for the whole face; HOG and colours if not given."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for leakage.json, leakage.md and leakage.png."),
    ] = None,
    limit: Limit = 0,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Faces of this split alone (test: persons never seen); may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, components and kernel.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Faces in a call of the encoder.")] = 64,
    cache: Cache = True,
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
        splits=split or (),
        seed=seed,
        batch_size=batch_size,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    epilog=examples(
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
        Path | None,
        typer.Option("--out", "-o", help="Folder for reproduce.json and reproduce.md."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures in a call of the encoder.")] = 64,
    cache: Cache = True,
) -> None:
    """Put a publication's figures beside ours, measured as it measured them."""
    from mien.evaluate.publications import reproduce as run

    done = run(
        publication, encoder, data=data, out=out, seed=seed, batch_size=batch_size, cache=cache
    )
    print(done.markdown())


@app.command(
    name="evaluate-edits",
    epilog=examples(
        "mien prepare london:LONDON --out tables/london",
        "mien evaluate-edits facecycle tables/london --out report",
        "mien evaluate-edits facecycle tables/london --judge "
        "dlib:dlib_face_recognition_resnet_model_v1.dat --expression-judge hog --data DATA",
    ),
)
def evaluate_edits(
    weights: WeightsFile,
    table: Annotated[
        Path, typer.Argument(help="Table with a neutral and another picture of each person.")
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Encoder that says whether it is still the person; may be repeated."),
    ] = None,
    expression_judge: ExpressionJudge = "",
    data: JudgeData = None,
    align: Align = True,
    out: Sheet = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    cache: Cache = True,
) -> None:
    """Measure neutralising and expression transfer against the true pictures of the persons."""
    from mien.evaluate.edits import evaluate_edits as run

    report = run(
        weights,
        table,
        judges=judge or (),
        expression_judge=expression_judge,
        data=data,
        align=align,
        out=out,
        seed=seed,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    name="evaluate-classifier",
    epilog=examples(
        "mien prepare fer2013:FER --annotations FER.parquet --out tables/fer2013",
        "mien evaluate-classifier derl tables/fer2013 --flip --out report",
        "mien evaluate-classifier derl tables/ckplus --folds 10 --images 50000 --out runs/ckplus",
    ),
)
def evaluate_classifier(
    weights: WeightsFile,
    table: Annotated[
        Path, typer.Argument(help="Table with expressions and a split, or (--folds) persons.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the trainings of --folds."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "test",
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over a picture and its mirror image.")
    ] = False,
    folds: Annotated[
        int,
        typer.Option(
            min=0, help="Train and measure so many classifiers, each on other persons; 0: none."
        ),
    ] = 0,
    recipe: Annotated[
        str, typer.Option(help="Of the trainings of --folds.")
    ] = "derl/laptop-classify",
    images: Annotated[
        int, typer.Option(min=0, help="Pictures of each of them; 0: as the recipe says.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of --folds; 0: all.")] = 0,
    out: Reports = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Measure how often a method's own classifier names the expression."""
    from mien.evaluate.classifiers import evaluate_classifier as run
    from mien.evaluate.cross_validation import cross_validate
    from mien.files.errors import ConfigError

    if not folds:
        if overrides:
            raise ConfigError("Settings of a training need --folds; nothing is trained without.")
        print(run(weights, table, split=split, flip=flip, out=out, seed=seed).markdown())
        return
    if out is None:
        raise ConfigError("The trainings of --folds need a folder: give --out.")
    report = cross_validate(
        weights,
        [table],
        out=out,
        folds=folds,
        recipe=recipe,
        images=images,
        overrides=overrides or (),
        flip=flip,
        seed=seed,
        threads=threads,
    )
    if report is not None:
        print(report.markdown())


@app.command(
    name="evaluate-swaps",
    epilog=examples(
        "mien prepare lfw:LFW --out tables/lfw",
        "mien evaluate-swaps facecycle tables/lfw --judge "
        "dlib:dlib_face_recognition_resnet_model_v1.dat --out report",
    ),
)
def evaluate_swaps(
    weights: WeightsFile,
    table: Annotated[Path, typer.Argument(help="Table with persons and a split.")],
    judge: Annotated[str, typer.Option(help="Encoder that says whose face it is.")],
    expression_judge: ExpressionJudge = "",
    landmark_judge: Annotated[
        str, typer.Option(help="dlib:FILE, dlib's shape predictor; the shipped network if empty.")
    ] = "",
    data: JudgeData = None,
    align: Align = True,
    features: Annotated[
        str, typer.Option(help="Encoder whose features the kernel distance (KID) compares.")
    ] = "hog",
    pairs: Annotated[int, typer.Option(help="Pairs of different persons.")] = 400,
    split: Annotated[
        list[str],
        typer.Option(help="Split whose persons are taken: test, val, train; may be repeated."),
    ] = ["test"],  # noqa: B006  (typer's way; never changed)
    out: Sheet = None,
    seed: Annotated[int, typer.Option(help="Seed of pairs and bootstrap.")] = 0,
    cache: Cache = True,
) -> None:
    """Measure swapped identities: whose face it is, and whether all else has stayed."""
    from mien.evaluate.identity_swaps import evaluate_swaps as run

    report = run(
        weights,
        table,
        judge=judge,
        expression_judge=expression_judge,
        landmark_judge=landmark_judge,
        data=data,
        align=align,
        features=features,
        pairs=pairs,
        splits=split,
        out=out,
        seed=seed,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    name="evaluate-makeup",
    epilog=examples(
        "mien prepare utkface:UTKFACE --out tables/utkface",
        "mien evaluate-makeup pairedcyclegan tables/utkface --judge "
        "dlib:dlib_face_recognition_resnet_model_v1.dat --out report",
        "mien evaluate-makeup runs/whole/weights.safetensors tables/utkface --judge JUDGE "
        "--other runs/no-ds/weights.safetensors --out report",
    ),
)
def evaluate_makeup(
    weights: WeightsFile,
    table: Annotated[Path, typer.Argument(help="Table of photos with landmarks and a split.")],
    judge: Annotated[str, typer.Option(help="Encoder that says whether it is still the person.")],
    other: Annotated[
        list[str] | None,
        typer.Option(help="Other weights to stand beside, e.g. without D_S; may be repeated."),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of a face and a reference.")] = 400,
    split: Annotated[
        list[str],
        typer.Option(help="Split whose faces are taken: test, val, train; may be repeated."),
    ] = ["test"],  # noqa: B006  (typer's way; never changed)
    colours: Annotated[
        str, typer.Option(help="Of the make-up: test (never trained on) or train.")
    ] = "test",
    out: Sheet = None,
    seed: Annotated[int, typer.Option(help="Seed of pairs, paint and bootstrap.")] = 0,
    cache: Cache = True,
) -> None:
    """Measure make-up put on and taken off against exact results, by skin tone too."""
    from mien.evaluate.makeup import evaluate_makeup as run

    report = run(
        weights,
        table,
        judge=judge,
        others=other or (),
        pairs=pairs,
        splits=split,
        colours=colours,
        out=out,
        seed=seed,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    name="evaluate-transfer",
    epilog=examples(
        "mien prepare lfw:LFW --out tables/lfw",
        "mien evaluate-transfer styletransfer tables/lfw --judge "
        "dlib:dlib_face_recognition_resnet_model_v1.dat --expression-judge hog --data DATA "
        "--out report",
        "mien evaluate-transfer styletransfer tables/lfw --judge JUDGE --layers 2-4 --layers 1-4",
    ),
)
def evaluate_transfer(
    weights: WeightsFile,
    table: Annotated[Path, typer.Argument(help="Table with persons and a split.")],
    judge: Annotated[str, typer.Option(help="Encoder that says whose face it is.")],
    expression_judge: ExpressionJudge = "",
    data: JudgeData = None,
    align: Align = True,
    pairs: Annotated[int, typer.Option(help="Pairs of different persons to measure.")] = 200,
    search_pairs: Annotated[
        int, typer.Option(help="Other pairs, on which the layers are searched; 0: they are not.")
    ] = 50,
    generated: Annotated[int, typer.Option(help="Generated faces, whose codes are known.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of an inversion at most.")] = 500,
    start: Annotated[
        str, typer.Option(help="Where the inversion of photos starts: encoder or mean.")
    ] = "encoder",
    appearance: Annotated[str, typer.Option(help="D1 of the search: gram or features.")] = "gram",
    expression: Annotated[
        str, typer.Option(help="D2 of the search: pixels, hull, features or landmarks.")
    ] = "pixels",
    expression_weight: Annotated[
        float, typer.Option(help="Weight of D2 in the search; that of D1 is 1.")
    ] = 1.0,
    layers: Annotated[
        list[str],
        typer.Option(
            help="Other expression layers to measure beside the configured ones, counted from 0: "
            "2-4 or 2,3,4; may be repeated."
        ),
    ] = [],  # noqa: B006  (typer's way; never changed)
    split: Annotated[
        list[str],
        typer.Option(help="Split whose persons are taken: test, val, train; may be repeated."),
    ] = ["test"],  # noqa: B006  (typer's way; never changed)
    out: Sheet = None,
    seed: Annotated[int, typer.Option(help="Seed of pairs, codes and bootstrap.")] = 0,
    cache: Cache = True,
) -> None:
    """Measure inversion and expression transfer by style codes, and search the layers."""
    from mien.evaluate.style_transfer import evaluate_transfer as run
    from mien.methods.styletransfer.masks import Cost

    report = run(
        weights,
        table,
        judge=judge,
        expression_judge=expression_judge,
        data=data,
        align=align,
        pairs=pairs,
        search_pairs=search_pairs,
        generated=generated,
        steps=steps,
        start=start,
        cost=Cost(appearance, expression, 1.0, expression_weight),
        layers=[_layers(text) for text in layers],
        splits=split,
        out=out,
        seed=seed,
        cache=cache,
    )
    print(report.markdown())


def _layers(text: str) -> tuple[int, ...]:
    """Read ``2-4`` or ``2,3,4``."""
    from mien.files.errors import ConfigError

    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise ConfigError(f"--layers {text!r} is no list of layers: 2-4 or 2,3,4.")
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1)
    return tuple(found)


@app.command(
    name="evaluate-generator",
    epilog=examples(
        "mien evaluate-generator runs/stylegan/weights.safetensors --table tables/utkface "
        "--table tables/omi --out report",
        "mien evaluate-generator a.safetensors b.safetensors --table tables/utkface --images 5000",
    ),
)
def evaluate_generator(
    weights: Annotated[
        list[str],
        typer.Argument(metavar="WEIGHTS...", help="Shipped names or .safetensors files."),
    ],
    table: Annotated[
        list[Path], typer.Option(help="Table with the splits train and test; may be repeated.")
    ],
    images: Annotated[int, typer.Option(help="Pictures to draw.")] = 2000,
    truncation: Annotated[float, typer.Option(help="1: all variety, 0: the mean face.")] = 1.0,
    features: Annotated[
        list[str],
        typer.Option(help="Encoder; each gives a KID, the first also neighbours; may be repeated."),
    ] = ["landmarks", "hog"],  # noqa: B006  (typer's way; never changed)
    limit: Annotated[
        int, typer.Option(help="Look through so many training photos at random; 0: all.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for generator.json, generator.md and sheets."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of codes, photos and bootstrap.")] = 0,
    cache: Cache = True,
) -> None:
    """Measure drawn faces against held-out photos: KID, precision, recall, memorising."""
    from mien.evaluate.generator import evaluate_generator as run

    report = run(
        weights,
        table,
        images=images,
        truncation=truncation,
        features=features,
        limit=limit,
        out=out,
        seed=seed,
        cache=cache,
    )
    print(report.markdown())


@app.command(
    name="evaluate-landmarks",
    epilog=examples(
        "mien evaluate-landmarks --data DATA --out report",
        "mien evaluate-landmarks --data DATA --set lfw --detector dlib",
    ),
)
def evaluate_landmarks(
    data: Annotated[Path, typer.Option(help="Folder that holds annotations/ and the sets.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="utkface, lfw, omi, london or ict_faces; all if not given."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Landmark weights; the shipped ones if not given."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="Find the faces with this detector instead of jittered true boxes."),
    ] = None,
    out: Reports = None,
    seed: Annotated[int, typer.Option(help="Seed of the boxes' jitter.")] = 0,
) -> None:
    """Measure landmarks and head pose on annotated people that were never trained on."""
    from mien.evaluate.landmarks import evaluate_landmarks as run

    report = run(data, sets or (), weights=weights, detector=detector, out=out, seed=seed)
    print(report.markdown())
