"""Weights on disk: safetensors with a JSON card beside them. Nothing here executes code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.files.atomic import atomic_path, sha256, write_json
from mien.files.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_CARD = "card"  # its name in the header of a weight file
SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def card_path(path: str | Path) -> Path:
    """Return the path of the JSON card of a weight file."""
    return Path(path).with_suffix(".json")


def save_weights(
    path: str | Path, tensors: dict[str, Tensor], card: dict[str, Any], *, inside: bool = False
) -> None:
    """Write ``tensors`` and a card with their SHA-256, both atomically.

    Args:
        path: Target, ending in ``.safetensors``.
        tensors: Named tensors; made contiguous before writing.
        card: Fields of the model card; ``sha256`` is added here.
        inside: Put the card into the weight file as well. A process that is killed between the two
            files leaves new weights beside an old card, which ``mend_card`` then puts right.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        ready = {name: value.detach().contiguous() for name, value in tensors.items()}
        save_file(ready, temporary, {_CARD: json.dumps(card)} if inside else None)
    write_json(card_path(path), {**card, "sha256": sha256(path)})


def mend_card(path: str | Path) -> dict[str, Any]:
    """Return the card inside a weight file; write it anew if another one lies beside it.

    Raises:
        WeightsError: The weight file is missing or damaged, or holds no card.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = sha256(path)
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})[_CARD])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    whole: dict[str, Any] = {**card, "sha256": found}
    try:
        mended = read_card(path) != whole
    except WeightsError:
        mended = True
    if mended:
        write_json(card_path(path), whole)
    return whole


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card beside a weight file.

    Raises:
        WeightsError: The card is missing or not JSON.
    """
    card = card_path(path)
    try:
        value = json.loads(card.read_text())
    except FileNotFoundError:
        raise WeightsError(
            f"No card {card}: weights are a .safetensors and a .json file."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"The card {card} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"The card {card} is not a JSON object.")
    return value


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a weight file and its card, checking the SHA-256.

    Raises:
        WeightsError: A file is missing, damaged, or differs from the hash in its card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    card = read_card(path)
    if not path.is_file():
        raise WeightsError(f"No weight file {path}.")
    found = sha256(path)
    if found != card.get("sha256"):
        raise WeightsError(
            f"{path} is damaged or was replaced: its SHA-256 is {found[:12]}…, its card says "
            f"{str(card.get('sha256'))[:12]}…. Fetch the file again."
        )
    try:
        return load_file(path), card
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from None
