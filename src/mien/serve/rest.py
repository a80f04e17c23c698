"""The REST interface: paths, parameters and answers. Photos are uploads only: no URL, no path."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, File, Query, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from mien.edit.tasks import TASKS
from mien.faces.image import declared_size
from mien.files.errors import ImageError, MienError
from mien.serve.batching import Batcher
from mien.serve.guard import RETRY_AFTER, Guard
from mien.serve.service import Found, Job, Limits, Result, Service

FACE = r"^(only|largest|central|[0-9]{1,3})$"
FACES = r"^(all|only|largest|central|[0-9]{1,3})$"
TaskName = Enum("TaskName", {name: name for name in TASKS}, type=str)  # type: ignore[misc]
Photo = Annotated[UploadFile, File(description="JPEG, PNG or WebP.")]
WeightsName = Annotated[str, Query(description="Name of weights (/methods).")]
_WHICH = "only (several are an error), largest, central, or a number (0 is the largest)."


class Problem(BaseModel):
    """Why there is no other answer."""

    detail: str


class Health(BaseModel):
    """Whether the service works."""

    status: Literal["ok"]
    version: str
    requests: int = Field(description="Requests that are read, wait or are worked on.")
    most_requests: int = Field(description="The next one gets 503.")


class EditAbout(BaseModel):
    """An edit that weights can do."""

    task: str
    driver: bool = Field(description="Whether a second photo says how.")
    summary: str


class About(BaseModel):
    """Weights of the service."""

    weights: str
    method: str
    sha256: str
    licence: str
    codes: dict[str, int] = Field(description="Factor and the length of its code.")
    edits: list[EditAbout]


class FaceCodes(BaseModel):
    """A face and its codes."""

    face: int = Field(description="Number in the photo; 0 is the largest.")
    box: list[float] = Field(description="Left, top, right, bottom in pixels of the upright photo.")
    score: float = Field(description="Face probability.")
    yaw: float | None = Field(description="Degrees; above 0: nose towards the picture's right.")
    pitch: float | None = Field(description="Degrees; above 0: looking up.")
    roll: float | None = Field(description="Degrees; above 0: clockwise as the viewer sees it.")
    codes: dict[str, list[float]] = Field(description="One vector a factor.")


class Embedding(BaseModel):
    """The faces of a photo. Codes can tell who a person is: keep them private."""

    weights: str
    faces: list[FaceCodes]


class Comparison(BaseModel):
    """How much two faces have in common."""

    weights: str
    cosine: dict[str, float] = Field(
        description="Factor and the cosine of both codes, from -1 to 1. No threshold is applied."
    )


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "Not a form of photos, or another host name.",
        401: "No token, or a wrong one.",
        403: "The request of another web page.",
        408: "The request arrived too slowly.",
        413: "A file or its declared size is too large.",
        415: "Not a JPEG, PNG or WebP picture.",
        422: "No face, several faces and none chosen, or an impossible parameter.",
        503: "Too many requests; try again after the seconds of Retry-After.",
    }.items()
}
_READING: dict[int | str, dict[str, Any]] = {
    status: _PROBLEMS[status] for status in (400, 401, 403)
}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The edited photo. It carries a signed record of the edit (C2PA, EXIF).",
        "content": {
            f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
            for kind in ("png", "jpeg", "webp")
        },
    }
}


def create_app(
    service: Service,
    limits: Limits | None = None,
    token: str = "",
    hosts: Sequence[str] = (),
) -> FastAPI:
    """Return the ASGI application.

    Args:
        service: The weights.
        limits: Of size, number and time.
        token: That requests must bear; empty: none is needed.
        hosts: Names the service answers to; empty: any.
    """
    from importlib.metadata import version

    limits = limits or Limits()
    batcher: Batcher[Job, Result] = Batcher(
        service,
        largest=limits.batch,
        cost=lambda job: job.pixels,
        budget=limits.max_pixels,
        linger=limits.linger,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="mien",
        description="Codes and edits of faces. Photos are uploaded, never fetched or kept.",
        version=version("mien"),
        lifespan=lifespan,
        docs_url=None,  # both pages would load scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    locked = [Security(HTTPBearer(auto_error=False))] if token else []
    api = APIRouter(dependencies=locked)  # the guard checks the token; this declares it

    async def run(job: Job) -> Result:
        service.check(job)
        try:
            return await batcher(job, limits.seconds)
        except TimeoutError:
            raise HTTPException(
                503,
                f"There was no answer within {limits.seconds:g} seconds; try again soon.",
                {"Retry-After": str(RETRY_AFTER)},
            ) from None

    async def uploads(*files: UploadFile) -> tuple[tuple[bytes, ...], int]:
        """Return content and declared pixels: formats and sizes are checked before decoding."""
        photos = tuple([await each.read(limits.max_bytes + 1) for each in files])
        pixels = 0
        for photo in photos:
            if len(photo) > limits.max_bytes:
                raise HTTPException(413, f"A photo has at most {limits.max_bytes:,} bytes.")
            try:
                width, height = declared_size(photo)
            except ImageError as error:
                raise HTTPException(415, str(error)) from None
            if width * height > limits.max_pixels:
                raise HTTPException(
                    413,
                    f"The photo declares {width} x {height} pixels; "
                    f"at most {limits.max_pixels:,} in all are read.",
                )
            pixels += width * height
        return photos, pixels

    @app.get("/health", responses={s: _PROBLEMS[s] for s in (400, 403)})
    async def health(request: Request) -> Health:
        """Tell whether the service works and how busy it is."""
        return Health(
            status="ok",
            version=app.version,
            requests=request.app.state.guard.active,
            most_requests=limits.requests,
        )

    @api.get("/methods", responses=_READING)
    async def methods() -> list[About]:
        """List the weights: their method, codes, edits and licence."""
        return [About(**about) for about in service.about()]

    @api.post("/embed", responses=_PROBLEMS, response_model=Embedding)
    async def embed(
        photo: Photo,
        weights: WeightsName = service.default,
        face: Annotated[str, Query(pattern=FACES, description=f"all, {_WHICH}")] = "all",
    ) -> Response:
        """Compute the codes of the faces of a photo."""
        photos, pixels = await uploads(photo)
        found = await run(Job("embed", weights, photos, (face,), pixels=pixels))
        assert isinstance(found, list)  # noqa: S101  (what the verb gives)
        answer = Embedding(weights=weights, faces=[_face_codes(each) for each in found])
        return _json(answer)

    @api.post("/compare", responses=_PROBLEMS, response_model=Comparison)
    async def compare(
        photo: Photo,
        other: Photo,
        weights: WeightsName = service.default,
        face: Annotated[str, Query(pattern=FACE, description=_WHICH)] = "only",
        other_face: Annotated[str, Query(pattern=FACE, description=_WHICH)] = "only",
    ) -> Response:
        """Compare two faces, code by code."""
        photos, pixels = await uploads(photo, other)
        found = await run(Job("compare", weights, photos, (face, other_face), pixels=pixels))
        assert isinstance(found, dict)  # noqa: S101  (what the verb gives)
        return _json(Comparison(weights=weights, cosine=found))

    @api.post("/edit", responses={**_PROBLEMS, **_PICTURE}, response_class=Response)
    async def edit(
        photo: Photo,
        task: TaskName,
        driver: Annotated[
            UploadFile | None, File(description="Photo of the face that says how.")
        ] = None,
        strength: Annotated[float, Query(ge=0, le=1, description="0: unchanged.")] = 1.0,
        weights: WeightsName = service.default,
        face: Annotated[str, Query(pattern=FACES, description=f"all, {_WHICH}")] = "only",
        driver_face: Annotated[str, Query(pattern=FACE, description=_WHICH)] = "only",
        format: Annotated[Literal["png", "jpeg", "webp"], Query(description="Of the answer.")] = (
            "png"
        ),
    ) -> Response:
        """Edit the face of a photo; the answer is a picture that says that it was edited."""
        files = (photo,) if driver is None else (photo, driver)
        photos, pixels = await uploads(*files)
        which = (face, driver_face)[: len(photos)]
        job = Job("edit", weights, photos, which, task.value, strength, format.upper(), pixels)
        found = await run(job)
        assert isinstance(found, bytes)  # noqa: S101  (what the verb gives)
        return Response(found, media_type=f"image/{format}")

    app.include_router(api)
    app.add_exception_handler(MienError, _mendable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(_Door, limits=limits, token=token, hosts=hosts)
    return app


class _Door(Guard):
    """The guard, known to the application as ``app.state.guard``."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "app" in scope:
            scope["app"].state.guard = self
        await super().__call__(scope, receive, send)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _face_codes(found: Found) -> FaceCodes:
    face = found.face
    yaw, pitch, roll = (None if math.isnan(angle) else angle for angle in face.pose)
    return FaceCodes(
        face=found.number,
        box=face.box.tolist(),
        score=face.score,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        codes={factor: code.tolist() for factor, code in found.codes.items()},
    )


async def _mendable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Say which parameter is wrong, without what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    said = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
    return JSONResponse({"detail": "; ".join(said) + "."}, 422)
