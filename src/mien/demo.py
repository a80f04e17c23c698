"""``mien demo``: the whole corridor on one HTML page, with your photos or with shipped ones."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from mien.edit.grids import GRIDS, draw_grid, grid_names
from mien.edit.photos import Editor, crops_to_tensor, tensor_to_images
from mien.edit.sources import photo_files
from mien.edit.tasks import TASKS, task_names
from mien.faces.align import invert, transform_points, warp
from mien.faces.face import Array, Face, Image
from mien.faces.find import Finder
from mien.faces.image import encode_image, read_image
from mien.faces.provenance import encode_edited
from mien.files.atomic import write_bytes, write_text
from mien.files.errors import FaceError, MienError, WeightsError

MOST_FACES = 8  # of the page; each meets every other one
_MAX_SIDE = 1600  # photos are shrunk to this; the page shows faces at _PORTRAIT pixels
_PORTRAIT = 320
_MARGIN = 0.25  # around the crop, in its sides
_COLUMNS = {
    "neutralise": "Neutral",
    "frontalise": "Frontal",
    "mean-face": "Identity taken out",
    "remove-makeup": "Make-up taken off",
}
_MATRICES = {
    "expression": (
        "Expressions exchanged",
        "Each row keeps its person and takes the expression of the face above the column. The "
        "diagonal takes the face apart and puts it back together from its own parts.",
    ),
    "pose": (
        "Poses exchanged",
        "Each row keeps its person and takes the head pose of the face above the column, drawn "
        "anew from the two codes: blurred, because it shows what the codes hold.",
    ),
    "makeup": (
        "Make-up exchanged",
        "Each row keeps its face and takes the make-up of the face above the column.",
    ),
    "identity": (
        "Identities exchanged",
        "Each row keeps its expression and pose and takes the identity of the face above the "
        "column.",
    ),
}


@dataclass(frozen=True, eq=False)
class Portrait:
    """A face cut out of its photo with some room around it, and what is called in captions."""

    name: str
    image: Image
    face: Face


def demo(
    photos: Sequence[str | Path] = (),
    *,
    out: str | Path = "mien-demo",
    weights: str | Path = "facecycle",
    detector: str = "dlib",
    finder: Finder | None = None,
    identity: bool = False,
    progress: bool = True,
) -> Path:
    """Take faces apart, put them together again, and show it all on one page.

    Args:
        photos: Pictures or folders; eight shipped pictures of four persons if none.
        out: Folder for ``index.html`` and PNG grids.
        weights: Shipped name, ``.safetensors`` file, or a method in memory.
        detector: Face detector (``mien.faces.detectors``).
        finder: Replaces the finder that ``detector`` names.
        identity: Show edits of identity too. The shipped weights draw them at 64 pixels over the
            photo, whose own features show through.
        progress: Show a progress bar.

    Returns:
        The page. It needs no other file; each edited picture on it says that it was edited.

    Raises:
        FaceError: No face in any photo.
        ImageError: A photo does not exist or a folder is empty.
        WeightsError: No such weights, or a damaged file.
    """
    editor = Editor(weights, detector, finder)
    assets = Path(str(files("mien") / "assets"))
    portraits, notes = _portraits(editor, photo_files(photos or [assets]))
    page = _Page(editor, portraits)
    tasks = [task for task in task_names(editor.method) if page.can(task, notes)]
    if not identity and not {"identity", "mean-face"}.isdisjoint(tasks):
        tasks = [task for task in tasks if task not in ("identity", "mean-face")]
        notes.append("Edits of identity are not shown; mien demo --identity does.")
    matrices = [t for t in _MATRICES if t in tasks]
    columns = page.columns(tasks)
    total = len(portraits) * (len(columns) + len(matrices) * len(portraits))
    with tqdm(total=total, desc="demo", unit="edit", disable=not progress) as bar:
        sections = [page.apart(columns, bar.update, identity)]
        sections += [page.matrix(task, bar.update) for task in matrices]
    grids = [n for n in grid_names(editor.method) if len(portraits) >= GRIDS[n].least]
    sections += [section for name in grids if (section := page.drawn(name, notes))]
    sections.append(page.likeness())
    if not photos:
        notes.append(_attribution())
    out = Path(out)
    for name, data in page.grids.items():
        write_bytes(out / name, data)
    template = Template((assets / "demo.html").read_text(encoding="utf-8"))
    html = template.substitute(
        method=escape(editor.method.name),
        weights=escape(editor.name),
        sections="\n".join(sections),
        notes="\n".join(f"<p>{note}</p>" for note in notes),
    )
    write_text(out / "index.html", html)
    return out / "index.html"


def _portraits(editor: Editor, sources: list[Path]) -> tuple[list[Portrait], list[str]]:
    """Find the faces, the largest of each photo first; return them with notes for the page."""
    found: list[tuple[int, Portrait]] = []
    notes: list[str] = []
    for path in sources:
        try:
            photo = read_image(path, max_side=_MAX_SIDE)
            faces = editor.find(photo, path.name)
        except MienError as error:
            notes.append(escape(str(error)))
            continue
        if not faces:
            notes.append(f"No face was found in {escape(path.name)}.")
        stem = path.stem.replace("_", " ")
        for rank, face in enumerate(faces):
            name = stem if len(faces) == 1 else f"{stem}, face {rank + 1}"
            found.append((rank, _cut(name, photo, face)))
    if not found:
        first = f" ({notes[0]})" if notes else ""
        raise FaceError(
            f"No face was found in the photos{first}; take one where a face is large and upright."
        )
    chosen = sorted(found, key=lambda pair: pair[0])[:MOST_FACES]  # stable: order of the photos
    if len(found) > MOST_FACES:
        notes.append(f"Of {len(found)} faces the page shows {MOST_FACES}.")
    return [portrait for _, portrait in chosen], notes


def _cut(name: str, photo: Image, face: Face) -> Portrait:
    """Cut a face out of its photo, so that the cost of an edit doesn't grow with the photo."""
    side = len(face.crop)
    wide = side * (1 + 2 * _MARGIN) / _PORTRAIT
    offset = -_MARGIN * side + (wide - 1) / 2  # the portrait's corner pixel, in crop pixels
    to_crop = np.array([[wide, 0, offset], [0, wide, offset], [0, 0, 1]])
    to_photo = np.asarray(face.to_photo, np.float64) @ to_crop
    to_portrait = invert(to_photo)
    wanted = np.vstack([to_portrait, [0, 0, 1]]) @ np.vstack([face.to_photo, [0, 0, 1]])
    moved = dataclasses.replace(
        face,
        landmarks=transform_points(face.landmarks, to_portrait),
        to_photo=wanted[:2].astype(np.float32),
    )
    return Portrait(name, warp(photo, to_photo, (_PORTRAIT, _PORTRAIT), "replicate"), moved)


class _Page:
    """Makes the sections of the page and the PNG grids beside it."""

    def __init__(self, editor: Editor, portraits: list[Portrait]) -> None:
        self.editor, self.portraits = editor, portraits
        self.grids: dict[str, bytes] = {}
        crops = crops_to_tensor([p.face.crop for p in portraits], editor.size)
        with torch.inference_mode():
            self.codes = {k: v.float().numpy() for k, v in editor.method.encode(crops).items()}

    def can(self, task: str, notes: list[str]) -> bool:
        """Tell whether the weights can do a task of the method; note on the page why not."""
        face = [self.portraits[0].face]
        try:
            self.editor.generate(task, face, face if TASKS[task].driver else None)
        except WeightsError as error:  # e.g. the first stage of two
            notes.append(escape(f"{task}: {error}"))
            return False
        return True

    def columns(self, tasks: list[str]) -> dict[str, str]:
        """Return task → heading; one column where a method's two edits are the same function."""
        heads = {task: text for task, text in _COLUMNS.items() if task in tasks}
        cls = type(self.editor.method)
        if len(heads.keys() & {"neutralise", "frontalise"}) == 2 and (
            getattr(cls, "frontalise", None) is getattr(cls, "neutralise", None)
        ):
            del heads["frontalise"]
            heads["neutralise"] = "Neutral and frontal"
        return heads

    def apart(self, heads: dict[str, str], step: Callable[[int], Any], identity: bool) -> str:
        """Return a row a face: original, landmarks, codes, and every edit without a driver."""
        head = "".join(
            f"<th scope='col'>{text}</th>"
            for text in ["Photo", "Landmarks", *(f"{h} *" for h in heads.values()), "Codes"]
        )
        rows, pictures = [], []
        edits = {task: self._edits(task, self.portraits) for task in heads}
        for i, portrait in enumerate(self.portraits):
            drawn = _draw_landmarks(portrait)
            cells = [
                _picture(encode_image(portrait.image, "JPEG", quality=90), portrait.name),
                _picture(encode_image(drawn, "JPEG", quality=90), f"{portrait.name}, landmarks"),
            ]
            row = [portrait.image, drawn]
            for task, text in heads.items():
                edited = edits[task][i]
                row.append(edited)
                cells.append(self._marked(edited, task, f"{portrait.name}: {text.lower()}"))
            codes = "".join(
                f"<figure>{_picture(_code_picture(values[i]), f'{factor} code', 'code')}"
                f"<figcaption>{escape(factor)}</figcaption></figure>"
                for factor, values in self.codes.items()
            )
            pictures.append(row)
            name = f"<th scope='row'>{escape(portrait.name)}{_angles(portrait.face)}</th>"
            body = "".join(f"<td>{cell}</td>" for cell in cells)
            rows.append(f"<tr>{name}{body}<td class='codes'>{codes}</td></tr>")
        step(len(edits) * len(rows))
        self._grid("apart.png", pictures, ", ".join(heads))
        text = (
            "Each face is found, measured by 68 landmarks, and described by codes: "
            f"{escape(' and '.join(self.codes))}. A square is one number of the code, blue below "
            "and red above zero. Head angles are in degrees."
        )
        return _section(
            "Taken apart",
            text,
            f"<tr><td></td>{head}</tr>",
            rows,
            self._mean_face() if identity else "",
        )

    def _mean_face(self) -> str:
        """Return a figure of what is left when everything is taken out, if the method has it."""
        function = getattr(self.editor.method, "mean_face", None)
        if function is None:
            return ""
        try:
            with torch.inference_mode():
                image = tensor_to_images(function())[0]
        except WeightsError:  # said in the notes
            return ""
        return (
            f"<figure class='mean'>{_picture(encode_image(image, 'PNG'), 'mean face (generated)')}"
            "<figcaption>The mean face of the training, generated: what is left when expression "
            "and identity are taken out.</figcaption></figure>"
        )

    def matrix(self, task: str, step: Callable[[int], Any]) -> str:
        """Return the table of every face with what ``task`` takes over from every other one."""
        title, text = _MATRICES[task]
        head = "".join(
            f"<th scope='col'>{self._small(p.image, p.name)}</th>" for p in self.portraits
        )
        rows, pictures = [], [[np.full_like(self.portraits[0].image, 255)]]
        pictures[0] += [p.image for p in self.portraits]
        for portrait in self.portraits:
            row = [portrait.image]
            cells = ""
            edits = self._edits(task, [portrait] * len(self.portraits), self.portraits)
            for driver, edited in zip(self.portraits, edits, strict=True):
                row.append(edited)
                what = f"{portrait.name} with the {task} of {driver.name}"
                cells += f"<td>{self._marked(_shrink(edited), task, what)}</td>"
            step(len(edits))
            name = f"<th scope='row'>{self._small(portrait.image, portrait.name)}</th>"
            rows.append(f"<tr>{name}{cells}</tr>")
            pictures.append(row)
        self._grid(f"{task}.png", [[_shrink(p) for p in row] for row in pictures], task)
        return _section(f"{title} *", text, f"<tr><td></td>{head}</tr>", rows)

    def drawn(self, name: str, notes: list[str]) -> str:
        """Return the table of a grid (``mien.edit.grids``); empty if the weights cannot give it."""
        try:
            rows = draw_grid(name, self.editor.method, [p.face.crop for p in self.portraits])
        except WeightsError as error:
            notes.append(escape(f"{name}: {error}"))
            return ""
        lines = []
        for portrait, row in zip(self.portraits, rows, strict=True):
            first = self._small(portrait.image, portrait.name)
            cells = "".join(
                f"<td>{self._marked(picture, name, f'{portrait.name}: {name} {i + 1}')}</td>"
                for i, picture in enumerate(row[1:])
            )
            lines.append(f"<tr><th scope='row'>{first}</th>{cells}</tr>")
        self._grid(f"{name}.png", rows, name)
        grid = GRIDS[name]
        text = f"Each row shows {grid.summary}. Drawn at {self.editor.size} pixels."
        return _section(f"{grid.title} *", text, "", lines)

    def likeness(self) -> str:
        """Return for each factor the table of cosines between the codes of the faces."""
        parts = []
        for factor, values in self.codes.items():
            # Codes share a large common part; what differs between these faces is what tells.
            centred = values - values.mean(0) if len(values) > 2 else values
            unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
            head = "".join(f"<th scope='col'>{escape(p.name)}</th>" for p in self.portraits)
            rows = [
                f"<tr><th scope='row'>{escape(p.name)}</th>"
                + "".join(f"<td style='--v:{v:.2f}'>{v:.2f}</td>" for v in row)
                + "</tr>"
                for p, row in zip(self.portraits, unit @ unit.T, strict=True)
            ]
            table = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
            parts.append(f"<h3>{escape(factor)}</h3><div class='scroll'><table class='heat'>")
            parts.append(f"{table}</table></div>")
        text = (
            "Cosine between the codes of two faces, the mean of all faces on this page taken "
            "out: 1 is the same direction, 0 unrelated. A likeness is no proof of who somebody is."
        )
        return f"<section><h2>Likeness of codes</h2><p>{text}</p>{''.join(parts)}</section>"

    def _edits(
        self, task: str, portraits: list[Portrait], drivers: list[Portrait] | None = None
    ) -> list[Image]:
        guides = None if drivers is None else [p.face for p in drivers]
        changes = self.editor.generate(task, [p.face for p in portraits], guides)
        return [c.carry(p.image, p.face) for c, p in zip(changes, portraits, strict=True)]

    def _small(self, image: Image, name: str) -> str:
        return _picture(encode_image(_shrink(image), "JPEG", quality=88), name)

    def _marked(self, image: Image, task: str, name: str) -> str:
        record = self.editor.record(task, 1.0)
        return _picture(encode_edited(image, record, "JPEG", quality=88), f"{name} (edited)")

    def _grid(self, name: str, pictures: list[list[Image]], task: str) -> None:
        rows = [np.concatenate(row, 1) for row in pictures]
        record = self.editor.record(task, 1.0)
        self.grids[name] = encode_edited(np.concatenate(rows, 0), record, "PNG")


def _section(title: str, text: str, head: str, rows: list[str], end: str = "") -> str:
    return (
        f"<section><h2>{title}</h2><p>{text}</p><div class='scroll'><table>"
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>{end}</section>"
    )


def _picture(data: bytes, alt: str, kind: str = "face") -> str:
    mime = "png" if data.startswith(b"\x89PNG") else "jpeg"
    text = base64.b64encode(data).decode()
    return f"<img class='{kind}' alt='{escape(alt)}' src='data:image/{mime};base64,{text}'>"


def _shrink(image: Image) -> Image:
    side = len(image) // 2
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _draw_landmarks(portrait: Portrait) -> Image:
    drawn = portrait.image.copy()
    for point in portrait.face.landmarks:
        centre = [round(float(v) * 16) for v in point]  # in sixteenths of a pixel
        cv2.circle(drawn, centre, 40, (30, 30, 30), -1, cv2.LINE_AA, 4)
        cv2.circle(drawn, centre, 28, (90, 230, 170), -1, cv2.LINE_AA, 4)
    return drawn


def _code_picture(code: Array) -> bytes:
    """Draw a code as squares, blue below and red above zero, white at zero."""
    side = int(np.ceil(np.sqrt(len(code))))
    values = np.zeros(side * side, np.float32)
    values[: len(code)] = code / max(float(np.abs(code).max()), 1e-6)
    v = values.reshape(side, side, 1)
    red, blue = np.array([215, 48, 60], np.float32), np.array([44, 105, 205], np.float32)
    colour = 255 + np.abs(v) * (np.where(v > 0, red, blue) - 255)
    return encode_image(np.rint(colour).astype(np.uint8), "PNG")


def _angles(face: Face) -> str:
    if not np.isfinite(face.pose).all():
        return ""
    yaw, pitch, roll = (f"{angle:+.0f}°" for angle in face.pose)
    return f"<small>yaw {yaw}<br>pitch {pitch}<br>roll {roll}</small>"


def _attribution() -> str:
    return (
        "Pictures: DeBruine, L., &amp; Jones, B. (2017). <cite>Face Research Lab London Set</cite> "
        "(Version 5), <a href='https://doi.org/10.6084/m9.figshare.5047666.v5'>"
        "doi:10.6084/m9.figshare.5047666.v5</a>, licence "
        "<a href='https://creativecommons.org/licenses/by/4.0/'>CC BY 4.0</a>; cut, reduced, and "
        "where marked with * edited."
    )
