"""Copy the weights of a training into the package and complete their model card.

    python tools/ship_weights.py runs/facecycle facecycle \
        --licence "CC BY-NC-SA 4.0 and non-commercial research only" \
        --before runs/warmup runs/motion --report report/report.json

The card keeps what the training wrote (config, recipe, data, command) and gains the
terms, the earlier stages' commands, and the figures of the reports, which are never typed by hand.
A report is added to the figures that the card has, so measuring again renews the card alone:

    python tools/ship_weights.py src/mien/weights/facecycle.safetensors facecycle --report ...

Figures of a network that is, bit for bit, the one shipped so far are kept by a part of their names:

    python tools/ship_weights.py runs/facecycle facecycle --kept e_exp fer2013 ...

Networks that only training needs, such as a discriminator, can be left out; the card says so:

    python tools/ship_weights.py runs/ipgan ipgan --without d ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mien.files.errors import MienError
from mien.files.weights import SHIPPED, load_weights, read_card, save_weights


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a card quotes of a report: every result with its interval and fingerprint."""
    if "results" not in report:  # of evaluate-landmarks and evaluate-edits
        return {report["task"]: {k: v for k, v in report.items() if k not in ("task", "versions")}}
    found = {}
    for result in report["results"]:
        entry = {k: result[k] for k in ("value", "interval", "error", "dims") if k in result}
        entry["fingerprint"] = result["data"].get("fingerprint")
        entry["settings"] = result["settings"]
        # Figures of other pictures than the plain ones do not replace those.
        marks = [f" --{key}" for key in ("align", "flip") if result["settings"].get(key)]
        found[f"{result['task']}: {result['encoder']}{''.join(marks)}"] = entry
    return found


def main() -> None:
    """Ship weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the finished training, or weights")
    parser.add_argument("name", help="name in the package")
    parser.add_argument("--licence", help="terms of the weights; the card's own if left out")
    parser.add_argument(
        "--before", type=Path, nargs="*", default=[], help="earlier stages, in their order"
    )
    parser.add_argument("--report", type=Path, nargs="*", default=[], help="reports as JSON")
    parser.add_argument(
        "--kept", nargs=2, action="append", default=[], metavar=("NETWORK", "FIGURES"),
        help="keep figures of the card so far, whose network did not change",
    )  # fmt: skip
    parser.add_argument(
        "--without", action="append", default=[], metavar="NETWORK",
        help="leave out a network that only training needs",
    )  # fmt: skip
    parser.add_argument("--note", help="what a user should know; the card's own if left out")
    args = parser.parse_args()
    target = SHIPPED / f"{args.name}.safetensors"
    run: Path = args.run
    try:
        tensors, card = load_weights(run / "weights.safetensors" if run.is_dir() else run)
        before = [run / "weights.safetensors" if run.is_dir() else run for run in args.before]
        cards = [read_card(file) for file in before]
    except MienError as error:
        parser.error(str(error))
    stages = [stage for each in cards for stage in (*each.get("earlier_stages", []), each)]
    kept = ("stage", "command", "steps", "images_seen", "recipe", "data")
    card |= {
        "name": args.name,
        "licence": args.licence or card.get("licence"),
        "note": args.note or card.get("note", ""),
    }
    if not card["licence"]:
        parser.error("these weights have no terms yet; give --licence")
    if stages or "earlier_stages" not in card:
        card["earlier_stages"] = [{k: stage[k] for k in kept if k in stage} for stage in stages]
    results: dict[str, Any] = {}
    if args.kept:
        shipped, so_far = load_weights(target)
        for network, part in args.kept:
            names = [n for n in shipped if n.startswith(f"{network}.")]
            if not names or any(
                n not in tensors or not shipped[n].equal(tensors[n]) for n in names
            ):
                parser.error(f"the network {network} is not the one shipped so far")
            results |= {k: v for k, v in so_far["results"].items() if part in k}
    for file in args.report:
        results |= figures(json.loads(file.read_text()))
    card["results"] = card.get("results", {}) | results
    for network in args.without:
        if not any(n.startswith(f"{network}.") for n in tensors):
            parser.error(f"these weights hold no network {network}")
        tensors = {n: v for n, v in tensors.items() if not n.startswith(f"{network}.")}
        card["left_out"] = sorted({*card.get("left_out", []), network})
    save_weights(target, tensors, card)
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
