"""The command line: quick to start, helpful, and every bad input ends in one plain sentence."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mien.cli import app, main
from mien.data.procedural import write_table
from mien.data.table import Row, TableWriter
from mien.faces.image import encode_image, read_image, write_image
from mien.faces.provenance import read_provenance
from mien.files.weights import save_weights
from mien.methods.facecycle import FaceCycle

COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands]
ASSETS = Path(str(files("mien") / "assets"))
SMALL = {"width": 4, "generator_width": 4, "blocks": 1, "perceptual": "none"}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return exit status, stdout and stderr."""

    def _run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mien", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return _run


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """Run a command that must end in one sentence; return the sentence."""

    def _fails(*arguments: object) -> str:
        code, _, err = run(*arguments)
        assert code == 2
        assert "Traceback" not in err
        sentence = err.replace("\r", "\n").strip().splitlines()[-1]
        assert sentence.startswith("mien: ")
        assert sentence.endswith((".", "?")), sentence
        return sentence

    return _fails


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained, narrow FaceCycle."""
    torch.manual_seed(0)
    method = FaceCycle(FaceCycle.Config(**SMALL))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    card = {"method": "facecycle", "stage": "identity", "config": SMALL}
    save_weights(path, method.state_dict(), card)
    return path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mien', '--help']\n"
        "from mien.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(out.stdout.splitlines()[-1]))
    heavy = {"torch", "numpy", "cv2", "dlib", "PIL", "pyarrow", "c2pa", "cryptography", "rich"}
    assert not loaded & heavy
    assert "Commands:" in out.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"  mien {command}" in out.partition("Examples:")[2]


def test_every_task_is_an_option(run: Run) -> None:
    from mien.edit.tasks import TASKS

    said = run("edit", "--help")[1]
    for task in TASKS.values():
        line = next(x for x in said.splitlines() if x.strip().startswith(f"--{task.name} "))
        assert any(word in line for word in ("DRIVER", "SOURCE", "REFERENCE")) == task.driver


def test_edits_are_done_in_the_order_of_the_options(
    run: Run, tmp_path: Path, small_weights: Path
) -> None:
    smile, calm = ASSETS / "030_smiling.jpg", ASSETS / "004_neutral.jpg"
    for options in (
        ("--neutralise", "--expression", calm),
        ("--expression", calm, "--neutralise"),
    ):
        code, said, _ = run("edit", smile, *options, "--out", tmp_path, "-m", small_weights)
        assert code == 0
        names = [str(o)[2:] for o in options if str(o).startswith("--")]
        assert said.strip() == str(tmp_path / f"030_smiling-{'+'.join(names)}.jpg")


def test_a_sheet_of_all_methods(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    code, said, _ = run(
        "edit", ASSETS / "030_smiling.jpg", "--neutralise", "-m", "all", "--out", out
    )
    assert (code, said.strip()) == (0, str(out))
    assert read_image(out).shape[1] == 4 * 256  # photo, derl, facecycle, styletransfer
    code, _, error = run("edit", "a.jpg", "--neutralise", "-m", "all", "--report", "--out", out)
    assert code == 2
    assert "--report is of one method" in error


def test_version(run: Run) -> None:
    from mien import __version__

    assert run("--version")[:2] == (0, f"mien {__version__}\n")


def test_unknown_commands_and_options(run: Run) -> None:
    assert run("edti")[0] == 2
    assert run("edit", "neutralise", "a.jpg")[0] == 2  # --out is missing
    assert run("edit", "a.jpg", "--neutralize", "--out", "b.png")[0] == 2


def test_edit_and_inspect(run: Run, small_weights: Path, tmp_path: Path) -> None:
    photo, out = ASSETS / "030_smiling.jpg", tmp_path / "calm.png"
    code, said, _ = run(
        "edit", photo, "--neutralise", "--out", out, "--strength", "0", "-w", small_weights
    )
    assert code == 0
    assert said.strip() == str(out)
    assert np.array_equal(read_image(out), read_image(photo))
    provenance = read_provenance(out)
    assert provenance is not None
    assert provenance.record.weights == "small"
    code, said, _ = run("inspect", out)
    assert code == 0
    assert "neutralise, strength 0, weights small (SHA-256 " in said
    assert "not changed since" in said
    assert "method facecycle" in said
    assert "made of: Photo (parentOf, image/jpeg, without a history of its own)" in said
    assert run("verify", out)[:2] == (0, said)  # its former name
    assert "says nothing" in run("inspect", photo)[1]


def test_edit_without_provenance_says_what_is_lost(run: Run, small_weights, tmp_path: Path) -> None:
    photo, out = ASSETS / "030_smiling.jpg", tmp_path / "calm.png"
    command = ("edit", photo, "--neutralise", "--out", out, "-w", small_weights)
    code, _, err = run(*command, "--no-provenance")
    assert code == 0
    assert "no C2PA manifest" in err
    assert read_provenance(out) is None
    assert run("inspect", out)[1].startswith("It says nothing")
    assert "manifest" not in run(*command)[2]


def test_inspect_fails_on_altered_pictures(run: Run, small_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "calm.jpg"
    run("edit", ASSETS / "030_smiling.jpg", "--neutralise", "--out", out, "-w", small_weights)
    data = bytearray(out.read_bytes())
    data[-40] ^= 1
    out.write_bytes(data)
    code, said, _ = run("inspect", out)
    assert code == 1
    assert "Failed check: assertion.dataHash.mismatch" in said
    assert "cannot be relied on" in said


def test_embed(run: Run, small_weights: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "codes.parquet"
    photos = [ASSETS / "030_smiling.jpg", ASSETS / "037_neutral.jpg"]
    (tmp_path / "text.jpg").write_text("text")
    code, said, err = run("embed", small_weights, *photos, tmp_path / "text.jpg", "--out", out)
    assert code == 0
    assert said.strip() == f"2 faces in {out}"
    assert f"skipped: {tmp_path / 'text.jpg'} is not a JPEG" in err
    table = pq.read_table(out)
    assert table.column("source").to_pylist() == [str(p) for p in photos]
    assert {len(v) for v in table.column("identity").to_pylist()} == {256}
    assert out.stat().st_mode & 0o077 == 0


def test_weights_and_licences(run: Run, small_weights: Path) -> None:
    code, said, _ = run("weights", small_weights)
    assert code == 0
    assert json.loads(said)["method"] == "facecycle"
    assert run("weights")[0] == 0
    said = run("licences")[1]
    assert "mien: Apache-2.0" in said
    assert "CC BY 4.0" in said
    assert "torch: " in said


def test_licences_for_commercial_use(run: Run, fails, small_weights, tmp_path: Path) -> None:
    for name in ("facecycle", "pcl", "derl", "ipgan"):
        assert f"{name} (non-commercial research only" in fails("licences", name, "--commercial")
    assert "commercial" in fails("licences", "--commercial")
    # The landmark network finds the faces of free weights, too.
    free = tmp_path / "free.safetensors"
    free.write_bytes(small_weights.read_bytes())
    card = json.loads(small_weights.with_suffix(".json").read_text())
    free.with_suffix(".json").write_text(json.dumps({**card, "licence": "CC BY 4.0"}))
    said = fails("licences", free, "--commercial")
    assert "landmarks (" in said
    assert "free" not in said
    write_table(tmp_path / "table", persons=1, frames=2, size=64)
    code, said, _ = run("licences", tmp_path / "table")
    assert code == 0
    assert str(tmp_path / "table") in said.partition("tables\n")[2]


def test_terms_that_forbid_commercial_use() -> None:
    from mien.files.errors import LicenceError
    from mien.weights.licences import check_commercial

    for terms in ("CC BY 4.0", "MIT", "Apache-2.0"):
        check_commercial({"weights": {"a": terms}, "tables": {"b": terms}})
    for terms in ("CC BY-NC-SA 4.0", "non-commercial use", "MT: research only", "not stated"):
        for part in ("weights", "tables"):
            with pytest.raises(LicenceError, match=r"b \("):
                check_commercial({part: {"a": "MIT", "b": terms}})
    check_commercial({"packages": {"a": "not stated"}})


# Bad input ---------------------------------------------------------------------------------------


def _group(tmp_path: Path) -> Path:
    path = tmp_path / "group.png"
    pair = [read_image(ASSETS / n) for n in ("030_neutral.jpg", "037_neutral.jpg")]
    write_image(path, np.concatenate(pair, 1))
    return path


def _empty_landscape(tmp_path: Path) -> Path:
    path = tmp_path / "landscape.png"
    row = np.linspace(40, 200, 240, dtype=np.uint8)
    write_image(path, cv2.merge([np.tile(row, (200, 1))] * 3))
    return path


def _declared(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that declares a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_no_face(fails, small_weights: Path, tmp_path: Path) -> None:
    photo, out = _empty_landscape(tmp_path), tmp_path / "out.png"
    said = fails("edit", photo, "--neutralise", "--out", out, "-w", small_weights)
    assert "holds no face" in said
    assert not out.exists()
    said = fails("embed", small_weights, photo, "--out", tmp_path / "codes.parquet")
    assert "no face" in said
    assert not (tmp_path / "codes.parquet").exists()
    assert "No face was found" in fails(
        "demo", photo, "--out", tmp_path / "demo", "-w", small_weights
    )


def test_several_faces_without_a_choice(fails, run: Run, small_weights, tmp_path: Path) -> None:
    photo, out = _group(tmp_path), tmp_path / "out.png"
    command = ("edit", photo, "--neutralise", "--out", out, "-w", small_weights)
    assert "2 faces; choose one" in fails(*command)
    assert not out.exists()
    assert run(*command, "--face", "1")[0] == 0
    assert out.exists()
    assert "no face number 2" in fails(*command, "--face", "2")


@pytest.mark.parametrize("size", [(1, 1), (30_000, 30_000)])
def test_impossible_sizes(fails, small_weights: Path, tmp_path: Path, size) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(
        encode_image(np.zeros((1, 1, 3), np.uint8)) if size == (1, 1) else _declared(*size)
    )
    said = fails("edit", photo, "--neutralise", "--out", tmp_path / "o.png", "-w", small_weights)
    assert "pixels" in said
    assert "pixels" in fails("embed", small_weights, photo, "--out", tmp_path / "c.parquet")


def test_text_named_jpg(fails, small_weights: Path, tmp_path: Path) -> None:
    photo = tmp_path / "notes.jpg"
    photo.write_text("These are notes.\n")
    said = fails("edit", photo, "--neutralise", "--out", tmp_path / "o.png", "-w", small_weights)
    assert "is not a JPEG, PNG or WebP picture" in said
    assert "is not a JPEG" in fails("inspect", photo)
    assert photo.read_text() == "These are notes.\n"


def test_empty_folder(fails, small_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    said = fails("edit", folder, "--neutralise", "--out", tmp_path / "o", "-w", small_weights)
    assert "holds no pictures" in said
    fails("embed", small_weights, folder, "--out", tmp_path / "c.parquet")
    fails("demo", folder, "--out", tmp_path / "demo", "-w", small_weights)
    fails("prepare", folder, "--out", tmp_path / "table")
    assert not list(folder.iterdir())


def _recipe(tmp_path: Path, table: Path) -> Path:
    path = tmp_path / "small.yaml"
    settings = {
        "method": "facecycle",
        "tables": [str(table)],
        "batch_size": 2,
        "steps": 1,
        "preview_every": 0,
        "config": SMALL,
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def test_table_without_the_columns_of_the_method(fails, tmp_path: Path) -> None:
    with TableWriter(tmp_path / "table", crop="tight", size=64) as writer:
        writer.add(Row(encode_image(np.zeros((64, 64, 3), np.uint8)), "a"))
        writer.close()
    recipe = _recipe(tmp_path, tmp_path / "table")
    said = fails("train", recipe, "--out", tmp_path / "run", "--threads", "1")
    assert "'landmarks'" in said
    assert "mien prepare" in said


def test_weights_with_a_wrong_hash(fails, small_weights: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(small_weights.read_bytes() + b"\0")
    bad.with_suffix(".json").write_bytes(small_weights.with_suffix(".json").read_bytes())
    photo = ASSETS / "030_smiling.jpg"
    for command in (
        ("edit", photo, "--neutralise", "--out", tmp_path / "o.png", "-w", bad),
        ("embed", bad, photo, "--out", tmp_path / "c.parquet"),
        ("demo", "--out", tmp_path / "demo", "-w", bad),
        ("evaluate", bad, "--data", tmp_path),
    ):
        assert "SHA-256" in fails(*command)
    assert "No weights 'nothing'" in fails("weights", "nothing")


def test_resume_with_another_config(fails, run: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "table", persons=2, frames=4, size=64)
    recipe, out = _recipe(tmp_path, tmp_path / "table"), tmp_path / "run"
    assert run("train", recipe, "--out", out, "--threads", "1")[0] == 0
    before = {p: p.read_bytes() for p in out.rglob("*.safetensors")}
    assert before
    said = fails("train", recipe, "learning_rate=0.5", "--out", out, "--resume", "--threads", "1")
    assert "learning_rate" in said
    assert {p: p.read_bytes() for p in out.rglob("*.safetensors")} == before
    assert "go on with --resume" in fails("train", recipe, "--out", out, "--threads", "1")
    assert "did you mean" in fails("train", recipe, "batchsize=3", "--out", tmp_path / "other")


def test_folders_that_cannot_be_written(fails, small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    photo = ASSETS / "030_smiling.jpg"
    fails("edit", photo, "--neutralise", "--out", tmp_path / "file" / "o.png", "-w", small_weights)
    assert (tmp_path / "file").read_text() == "in the way"


def test_interrupted_commands_exit_with_130() -> None:
    code = (
        "import os, signal, sys, mien.faces.provenance as p\n"
        "from mien.cli import main\n"
        # What a shell starts in the background inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "p.inspect = lambda file: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['mien', 'inspect', 'x.png']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table of drawn faces."""
    table = tmp_path_factory.mktemp("tables") / "drawn"
    write_table(table, persons=20, frames=6, size=32)
    return table


def test_evaluate_labels_of_a_table(run: Run, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, _ = run(
        *("evaluate", "pixels,size=16", "--task", "pose", "--table", drawn),
        *("--out", out, "--no-cache"),
    )
    assert code == 0
    assert "yaw MAE° (R²)" in text
    assert (out / "report.md").read_text() in text


def test_leakage(run: Run, drawn: Path, tmp_path: Path) -> None:
    code, text, _ = run(
        *("leakage", "pixels,size=16", "--table", drawn, "--factor", "yaw", "--factor", "pitch"),
        *("--whole", "lbp,size=32", "--out", tmp_path / "out", "--no-cache"),
    )
    assert code == 0
    assert "| whole face" in text
    assert (tmp_path / "out" / "leakage.png").is_file()


def test_reproduce_tells_which_data_is_missing(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("reproduce", "facecycle", "hog", "--data", tmp_path)
    assert code == 0
    assert "48.76 %" in text
    assert text.count("not there") == 7


def test_bad_evaluations(fails: Callable[..., str], drawn: Path, tmp_path: Path) -> None:
    assert "did you mean 'pose'" in fails("evaluate", "hog", "--task", "pos", "--table", drawn)
    assert "--table" in fails("evaluate", "hog", "--task", "pose")
    assert "--data" in fails("evaluate", "hog", "--task", "lfw")
    assert "did you mean 'yaw'" in fails("leakage", "hog", "--table", drawn, "--factor", "yaww")
    assert "'facecycle'" in fails("reproduce", "facecycl", "--data", tmp_path)


def test_published_generators_are_converted(
    run: Run, fails: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(Vls\ntR.")
    said = fails("convert", tmp_path / "bad.pkl", "--out", tmp_path / "out.safetensors")
    assert "asks for os.system" in said
    assert not (tmp_path / "out.safetensors").exists()


def test_edit_of_a_video(run: Run, small_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from mien.faces.video import probe_video, write_video

    clip, out = tmp_path / "clip.mp4", tmp_path / "calm.mp4"
    write_video(clip, [read_image(ASSETS / "030_smiling.jpg")] * 3, 25)
    command = ("edit", clip, "--neutralise", "--out", out, "-w", small_weights)
    code, said, _ = run(*command, "--resume")  # nothing to go on with: it begins
    assert code == 0
    assert f"{out}: 3 of 3 frames edited" in said
    assert probe_video(out).frames == 3
    for more, message in (
        (("--report",), "--report is for photos"),
        (("--method", "all"), "--method all is for photos"),
    ):
        code, _, error = run("edit", clip, "--neutralise", "--out", out, *more)
        assert code == 2
        assert message in error
    code, _, error = run("edit", ASSETS / "030_smiling.jpg", "--neutralise", "-o", out, "--resume")
    assert code == 2
    assert "--resume is for videos" in error
