"""Take a face apart - identity, expression, pose, appearance - and put it back together.

The verbs, each of which is also a command (``mien VERB --help``):

* ``load(weights)``: a method with trained weights.
* ``prepare(sources, out)``: pictures, videos and public data sets into a table of faces.
* ``train(recipe)``: train a method.
* ``embed(weights, sources)``: the codes of every face.
* ``evaluate(encoders, tasks, data=...)``: measure encoders on public test sets.
* ``edit(task, photos)``: edit the faces of whole photos.
* ``serve(weights)``: codes and edits over HTTP.

Nothing heavy is imported before a verb is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

    from mien.data.prepare import prepare as prepare
    from mien.edit.codes import embed as embed
    from mien.edit.photos import edit as edit
    from mien.evaluate.report import evaluate as evaluate
    from mien.serve.server import serve as serve
    from mien.train.loop import train as train
    from mien.weights import load as load

    __version__: str

# verb -> module and function; train, evaluate, edit and serve are packages of the same name as well
_VERBS = {
    "load": "mien.weights",
    "prepare": "mien.data.prepare",
    "train": "mien.train.loop",
    "embed": "mien.edit.codes",
    "evaluate": "mien.evaluate.report",
    "edit": "mien.edit.photos",
    "serve": "mien.serve.server",
}

__all__ = ["__version__", "edit", "embed", "evaluate", "load", "prepare", "serve", "train"]


class _VerbPackage(ModuleType):
    """A package that is called like the verb it is named after: ``mien.train("recipe")``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        import inspect

        return inspect.signature(_function(self.__name__.rpartition(".")[2]))


class _Mien(ModuleType):
    """Makes the packages of the verbs callable at the moment the import system attaches them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and type(value) is ModuleType:
            value.__class__ = _VerbPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Mien


def _function(verb: str) -> Any:
    return getattr(import_module(_VERBS[verb]), verb)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mien")
    if name in _VERBS:
        function = _function(name)
        return sys.modules.get(f"{__name__}.{name}", function)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
