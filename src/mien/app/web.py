"""The page: built with Gradio, served to this computer alone, nothing loaded from elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2

from mien.app.studio import Made, Opened, Studio
from mien.edit.tasks import TASKS
from mien.faces.face import Image
from mien.files.atomic import write_bytes
from mien.files.errors import ConfigError, MienError, MissingExtraError

if TYPE_CHECKING:
    from mien.methods.base import Method

_HOUR = 3600
_SHOWN = 256  # side of the preview in pixels
_THEME = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # no font of a network


def app(
    weights: Sequence[str | Path | Method] = (),
    *,
    port: int = 8018,
    detector: str = "dlib",
    browser: bool = False,
) -> None:
    """Open the web app on 127.0.0.1 until interrupted.

    Args:
        weights: Shipped names or ``.safetensors`` files; all shipped ones if empty.
        port: To listen on.
        detector: Face detector; ``crop`` for pictures that are face crops already.
        browser: Open a browser window.

    Raises:
        ConfigError: None of the weights can edit.
        MissingExtraError: The extra ``app`` is not installed.
        WeightsError: No such weights, or a damaged file.
    """
    from mien.weights import shipped

    studio = Studio(weights or shipped(), detector)
    launch(build(studio), server_port=port, inbrowser=browser)


def launch(page: Any, **options: Any) -> str:
    """Serve what ``build`` returned on 127.0.0.1; return its address.

    Args:
        page: ``gradio.Blocks``.
        options: Further options of ``Blocks.launch``.
    """
    _, address, _ = page.queue(default_concurrency_limit=1).launch(
        server_name="127.0.0.1",
        share=False,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        theme=_gradio().themes.Base(**_THEME),
        **options,
    )
    return str(address)


def build(studio: Studio) -> Any:
    """Return the page as ``gradio.Blocks``.

    Raises:
        MissingExtraError: The extra ``app`` is not installed.
    """
    gr = _gradio()
    folder = tempfile.TemporaryDirectory(prefix="mien-")  # ends with the page
    names = list(studio.editors)
    tasks = [t for t in TASKS if any(t in studio.tasks(name) for name in names)]

    def said(run: Callable[..., Any]) -> Callable[..., Any]:
        """Show errors that a user can mend as a message."""

        @wraps(run)
        def wrapped(*args: Any) -> Any:
            try:
                return run(*args)
            except MienError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return wrapped

    @said
    def opened(file: str | None) -> tuple[Any, ...]:
        if file is None:
            return None, [], 0, None
        found = studio.open(file)
        return found, [(face.crop, str(k)) for k, face in enumerate(found.faces)], 0, None

    @said
    def guide(file: str | None) -> Opened | None:
        return None if file is None else studio.open(file)

    @said
    def preview(name: str, photo: Any, face: int, driver: Any, *values: float) -> Image | None:
        if photo is None:
            return None
        strengths = dict(zip(tasks, values, strict=True))
        crop = studio.preview(name, photo, int(face), strengths, driver)
        return cast(Image, cv2.resize(crop, (_SHOWN, _SHOWN), interpolation=cv2.INTER_CUBIC))

    @said
    def edited(
        name: str, photo: Any, face: int, driver: Any, *values: float
    ) -> tuple[str, str, str, Made]:
        if photo is None:
            raise ConfigError("Upload a photo first.")
        strengths = dict(zip(tasks, values, strict=True))
        made = studio.apply(name, photo, int(face), strengths, driver)
        path = Path(tempfile.mkdtemp(dir=folder.name)) / "edited.png"
        write_bytes(path, studio.encode(photo, made))
        from mien.faces.provenance import inspect

        for sentence in made.warnings:
            gr.Warning(sentence)
        return str(path), str(path), str(inspect(path)), made

    @said
    def reported(photo: Any, made: Any) -> tuple[Image, list[tuple[str, str, str]]]:
        if photo is None or made is None:
            raise ConfigError("Edit the photo first.")
        return studio.report(photo, made)

    @said
    def looked(name: str, photo: Any, face: int) -> list[tuple[Image, str]]:
        if photo is None:
            raise ConfigError("Upload a photo first.")
        pictures = studio.residue(name, photo, int(face))
        names = ["face", "neutral", *(f"layers {k}" for k in range(1, len(pictures) - 1))]
        return list(zip(pictures, names, strict=True))

    @said
    def explored(spec: str, table: str, colour: str, kind: str) -> str:
        from mien.app.explorer import explore

        return explore(spec, table, colour, kind)

    @said
    def compared(
        task: str, strength: float, photo: Any, face: int, driver: Any
    ) -> list[tuple[Image, str]]:
        if photo is None:
            raise ConfigError("Upload a photo first.")
        found = studio.compare(photo, int(face), task, strength, driver)
        return [(photo.image, "photo"), *((image, name) for name, image in found.items())]

    @said
    def leaked(name: str, table: str) -> tuple[str, str]:
        from mien.evaluate.leakage import evaluate_leakage

        out = Path(tempfile.mkdtemp(dir=folder.name))
        report = evaluate_leakage(name, [table], out=out)
        return str(out / "leakage.png"), report.markdown()

    def able(name: str) -> list[Any]:
        return [gr.update(visible=task in studio.tasks(name), value=0) for task in tasks]

    def picked(event: Any) -> int:
        return int(event.index)

    picked.__annotations__["event"] = gr.SelectData  # Gradio finds out by it what to pass
    with gr.Blocks(title="mien", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        photo, face, driver, made = gr.State(None), gr.State(0), gr.State(None), gr.State(None)
        gr.Markdown(
            "Edit photos of yourself, or of people who agreed to it. Every picture that you "
            "download says that it was edited. Photos stay on this computer; the app deletes its "
            "copies when it ends."
        )
        with gr.Row():
            with gr.Column():
                upload = gr.Image(
                    label="Photo", type="filepath", sources=["upload", "webcam"], image_mode=None
                )
                faces = gr.Gallery(
                    label="Faces: click on one",
                    columns=6,
                    height=120,
                    elem_id="faces",
                    object_fit="contain",
                    fit_columns=False,
                    buttons=[],
                )
                other = gr.Image(
                    label="Driver: the face that says how",
                    type="filepath",
                    sources=["upload", "webcam"],
                    image_mode=None,
                )
            with gr.Column():
                name = gr.Dropdown(names, value=names[0], label="Weights")
                sliders = [
                    gr.Slider(
                        0,
                        1,
                        0,
                        step=0.05,
                        label=f"{task}: {TASKS[task].summary}",
                        visible=task in studio.tasks(names[0]),
                    )
                    for task in tasks
                ]
                # No buttons of Gradio's that save or share what is not signed.
                small = gr.Image(
                    label="Preview of the face", interactive=False, height=256, buttons=[]
                )
        with gr.Tab("Photo"):
            button = gr.Button("Edit the photo", variant="primary")
            result = gr.Image(label="Edited photo", interactive=False, buttons=["fullscreen"])
            download = gr.DownloadButton("Download (signed)")
            history = gr.Textbox(label="What the file says about itself", lines=6)
        with gr.Tab("Report card"):
            judge = gr.Button("Measure what the edit did")
            card = gr.Dataframe(
                headers=["measure", "value", "mark"], label="Report card", interactive=False
            )
            pictures = gr.Image(
                label="Before, after, difference, flow", interactive=False, buttons=["fullscreen"]
            )
        with gr.Tab("Residue maps"):
            look = gr.Button("Show where the network's layers see an expression")
            maps = gr.Gallery(label="Bright: the strongest place of a map", columns=6)
        with gr.Tab("Compare methods"):
            task = gr.Dropdown(tasks, value=tasks[0], label="Task")
            strength = gr.Slider(0, 1, 1, step=0.05, label="Strength")
            compare = gr.Button("Compare")
            sheet = gr.Gallery(label="Every method that can", columns=4, buttons=["fullscreen"])
        with gr.Tab("Explore a table"):
            seen = gr.Textbox(label="Folder of a table of faces (mien prepare)")
            with gr.Row():
                spec = gr.Textbox(names[0], label="Encoder, as mien evaluate takes it")
                colour = gr.Textbox("expression", label="Colour: a column of the table")
                kind = gr.Dropdown(["umap", "tsne"], value="umap", label="Map")
            explore_button = gr.Button("Draw the map")
            chart = gr.HTML(label="Point at a dot to see the face")
        with gr.Tab("Leakage"):
            table = gr.Textbox(label="Folder of a table of faces (mien prepare)")
            measure = gr.Button("Measure what each code gives away")
            matrix = gr.Image(label="Leakage", interactive=False)
            report = gr.Markdown()

        state = [name, photo, face, driver, *sliders]
        quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        upload.change(opened, upload, [photo, faces, face, made], api_name="open").then(
            preview, state, small, show_progress="hidden", api_visibility="private"
        )
        other.change(guide, other, driver, api_name="driver").then(
            preview, state, small, show_progress="hidden", api_visibility="private"
        )
        faces.select(picked, None, face, api_visibility="private").then(
            preview, state, small, show_progress="hidden", api_visibility="private"
        )
        name.change(able, name, sliders, api_name="weights")
        for slider in sliders:
            slider.input(preview, state, small, api_visibility="private", **quick)
        # A button of no use on the page: the sliders' preview for programs.
        gr.Button(visible=False).click(preview, state, small, api_name="preview")
        button.click(edited, state, [result, download, history, made], api_name="edit")
        judge.click(reported, [photo, made], [pictures, card], api_name="report")
        look.click(looked, [name, photo, face], maps, api_name="residue")
        explore_button.click(explored, [spec, seen, colour, kind], chart, api_name="explore")
        asked = [task, strength, photo, face, driver]
        compare.click(compared, asked, sheet, api_name="compare")
        measure.click(leaked, [name, table], [matrix, report], api_name="leakage")
    return page


def _gradio() -> Any:
    """Import Gradio with everything off that calls home."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError(error.name or "gradio", "app") from None
    return gradio
