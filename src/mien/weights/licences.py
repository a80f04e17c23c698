"""Under which terms everything stands that comes with the package or passes through it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from mien.data.table import Table
from mien.files.errors import LicenceError
from mien.files.weights import SHIPPED, read_card
from mien.weights import card, shipped

_PICTURES = "CC BY 4.0, DeBruine & Jones (2017), doi:10.6084/m9.figshare.5047666.v5; changed"


# Terms under which commercial use is forbidden or not granted.
_FORBIDS = re.compile(
    r"non-?commercial|\bBY-NC\b|\bNC\b|research (?:only|use)|not stated|no licence", re.IGNORECASE
)
_LOADED = ("code", "weights", "pictures", "tables")  # the parts that a product would hold


def licences(loaded: Sequence[str | Path] = ()) -> dict[str, dict[str, str]]:
    """Return part of the project → name → terms.

    Args:
        loaded: Weights and tables of faces that are used; every shipped one if empty. The
            landmark network belongs to any of them: it finds the faces.

    Raises:
        WeightsError: No such weights.
        TableError: A damaged table.
    """
    from mien.data.readers import reader_licences

    tables = [Path(each) for each in loaded if (Path(each) / "table.json").is_file()]
    names = [each for each in loaded if Path(each) not in tables] if loaded else shipped()
    weights = {str(name): str(card(name).get("licence", "not stated")) for name in names}
    weights["landmarks"] = str(read_card(SHIPPED / "landmarks.safetensors").get("licence"))
    found = {"code": {"mien": "Apache-2.0"}, "weights": weights}
    if tables:
        found["tables"] = {str(table): _table_terms(table) for table in tables}
    if not loaded:
        found["pictures"] = {"Face Research Lab London Set (mien demo)": _PICTURES}
        owners = "data sets that mien prepare reads (get them from their owners)"
        found[owners] = reader_licences()
    found["packages"] = _packages()
    return found


def check_commercial(found: Mapping[str, Mapping[str, str]]) -> None:
    """Check what ``licences`` returned.

    Raises:
        LicenceError: Terms of what is loaded forbid commercial use, or do not grant it.
    """
    bad = [
        f"{name} ({terms})"
        for part in _LOADED
        for name, terms in found.get(part, {}).items()
        if _FORBIDS.search(terms)
    ]
    if bad:
        raise LicenceError(
            f"Commercial use is forbidden or not granted by the terms of {'; '.join(bad)}."
        )


def _table_terms(folder: Path) -> str:
    """Return every licence that stands in the rows of a table."""
    terms = {value or "not stated" for value in Table(folder).column("licence")}
    return "; ".join(sorted(terms)) or "no rows"


def _packages() -> dict[str, str]:
    """Return the terms of the packages that mien needs, as they declare them."""
    found = {}
    for requirement in requires("mien") or []:
        name, _, condition = requirement.partition(";")
        name = re.split(r"[\s\[<>=!~]", name, maxsplit=1)[0]
        if "extra" not in condition:
            found[name] = _terms(name)
    return found


def _terms(package: str) -> str:
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return "not installed"
    declared = [
        c.rpartition(" :: ")[2]
        for c in about.get_all("Classifier") or []
        if c.startswith("License ::")
    ]
    expression, text = (
        about[n] if n in about else ""  # noqa: SIM401  (typed without "get")
        for n in ("License-Expression", "License")
    )
    found = (expression or "; ".join(declared) or text).strip()
    return found.splitlines()[0] if found else "not stated"
