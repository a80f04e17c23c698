"""Shipped weights, and the way from a name or a path to a method that is ready to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.files.errors import WeightsError, nearest
from mien.files.weights import SHIPPED, card_path, load_weights, read_card

if TYPE_CHECKING:
    from mien.methods.base import Method

__all__ = ["build", "card", "load", "path", "shipped"]


def shipped() -> list[str]:
    """Return the names of the weights of methods that come with the package."""
    names = (file.stem for file in SHIPPED.glob("*.safetensors"))
    return sorted(n for n in names if "method" in read_card(SHIPPED / f"{n}.safetensors"))


def path(name_or_path: str | Path) -> Path:
    """Return the ``.safetensors`` file behind a shipped name or a path.

    Raises:
        WeightsError: Neither a file nor a shipped name.
    """
    file = Path(name_or_path)
    if file.suffix == ".safetensors" and (file.is_file() or card_path(file).is_file()):
        return file
    name = str(name_or_path)
    if "/" not in name and (SHIPPED / f"{name}.safetensors").is_file():
        return SHIPPED / f"{name}.safetensors"
    names = shipped()
    hint = nearest(name, names) if names else "; none are shipped with this version"
    raise WeightsError(f"No weights {name!r}: neither a .safetensors file nor a shipped name{hint}")


def card(name_or_path: str | Path) -> dict[str, Any]:
    """Return the model card of weights."""
    return read_card(path(name_or_path))


def build(card: dict[str, Any]) -> Method:
    """Return the freshly initialised method that a card describes, in evaluation mode.

    It lacks the networks that the card's ``left_out`` names: those that only training needs.

    Raises:
        WeightsError: The card does not name a method.
    """
    from mien.methods.base import config_from, method_class

    if not isinstance(card.get("method"), str):
        raise WeightsError("The card does not name a method: these weights are no method's.")
    cls = method_class(card["method"])
    config = config_from(cls.Config, card.get("config", {}))
    method = cls(config, card.get("stage", cls.stages[-1])).eval()
    for name in card.get("left_out", ()):
        if name not in dict(method.named_children()):
            raise WeightsError(f"The card leaves out {name!r}, which {method.name} does not have.")
        delattr(method, name)
    return method


def load(name_or_path: str | Path) -> Method:
    """Return the method with trained weights, in evaluation mode.

    Args:
        name_or_path: A shipped name (see ``shipped``) or a ``.safetensors`` file with its card.

    Raises:
        WeightsError: Unknown name, damaged file, or tensors of another network.
    """
    file = path(name_or_path)
    tensors, found = load_weights(file)
    method = build(found)
    try:
        method.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{file} does not fit the network of its card: {reason}") from None
    return method
