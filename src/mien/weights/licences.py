"""Under which terms everything stands that comes with the package or passes through it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata, requires

from mien.weights import card, shipped

_PICTURES = "CC BY 4.0, DeBruine & Jones (2017), doi:10.6084/m9.figshare.5047666.v5; changed"


def licences() -> dict[str, dict[str, str]]:
    """Return part of the project → name → terms."""
    from mien.data.readers import reader_licences

    return {
        "code": {"mien": "Apache-2.0"},
        "weights": {name: str(card(name).get("licence", "not stated")) for name in shipped()},
        "pictures": {"Face Research Lab London Set (mien demo)": _PICTURES},
        "data sets that mien prepare reads (get them from their owners)": reader_licences(),
        "packages": _packages(),
    }


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
