"""Certificates of accuracy, from the reports of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl_perception.errors import ConfigError
from mtl_perception.network.certificate import REFERENCE, Certificate, Score, loss
from mtl_perception.network.digest import certificate_digest
from mtl_perception.weights.files import load_network, replace_description


def certify(weights: Path, out: Path, runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Write a weights file with certificates of its accuracy.

    Certificates that the file has of other arithmetic are kept where they are valid and comparable with the new ones.

    Args:
        weights: The weights that were evaluated.
        out: Output path, which may be `weights`.
        runs: Entries of metrics.json, one for each arithmetic, fp32 among them.

    Returns:
        What each arithmetic loses, by its name; human-readable.

    Raises:
        ConfigError: The evaluations do not compare one arithmetic with another in OpenVINO.
        SourceError: The file cannot be written.
    """
    network = load_network(weights)
    for run in runs:
        if not run["backend"].startswith("openvino"):
            raise ConfigError(f"{run['precision']} cannot be certified: the network ran in {run['backend']}, not in OpenVINO")
    new = {}
    for run in runs:
        name, data = run["precision"], {part["name"]: _score(part) for part in run["datasets"]}
        new[name] = Certificate(certificate_digest(network, name), run["device"], data)
    if REFERENCE not in new:
        raise ConfigError(f"nothing to compare with: evaluate {REFERENCE}, too")
    found = {}
    for name, certificate in {**network.description.certified, **new}.items():
        compared = loss(certificate, new[REFERENCE])
        if compared is not None and certificate.digest == certificate_digest(network, name):
            found[name] = certificate, compared
    certified = {name: certificate for name, (certificate, _) in found.items()}
    replace_description(weights, out, replace(network.description, certified=certified))
    return {name: str(compared) for name, (_, compared) in found.items() if name != REFERENCE}


def _score(part: dict[str, Any]) -> Score:
    """Return the score of a data set's report; without another run to compare with, the labels agree with themselves."""
    miou = {name: round(score["mIoU"], 5) for name, score in part["segmentation"].items() if score["mIoU"] is not None}
    depth, share = part["depth"], part["agreement"]
    abs_rel, rmse = (round(depth[key], 5) if depth else None for key in ("abs_rel", "rmse"))
    return Score(part["frames"], miou, abs_rel, rmse, 1.0 if share is None else round(share, 5))
