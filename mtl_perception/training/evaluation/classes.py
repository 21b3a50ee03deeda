"""Class sets in which ground truth and predictions of different classes can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mtl_perception.labels import STREET, ClassSet, load_mapping, lookup


@dataclass(frozen=True)
class ClassComparison:
    """A class set to which both ground truth and predictions can be mapped.

    Attributes:
        classes: The class set.
        truth: 256 uint8: id of the data set -> id in `classes`, 255 = ignored.
        choices: Ids of the network in the order of `classes`; the prediction is the best of these.
    """

    classes: ClassSet
    truth: np.ndarray
    choices: tuple[int, ...]


def comparisons(data: ClassSet, network: ClassSet) -> list[ClassComparison]:
    """Return the possible comparisons: in the classes of the data set, in KITTI-6, both or none.

    Args:
        data: Classes of the ground truth.
        network: Classes of the network.
    """
    network_forms = {classes.names: ids for classes, ids in _forms(network)}
    found = []
    for classes, ids in _forms(data):
        if classes.names in network_forms:
            network_id = {target: source for source, target in network_forms[classes.names].items()}
            found.append(ClassComparison(classes, lookup(ids), tuple(network_id[i] for i in range(len(classes)))))
    return found


def _forms(classes: ClassSet) -> Iterator[tuple[ClassSet, dict[int, int]]]:
    """Yield the class sets to which `classes` can be mapped, with the map of ids."""
    yield classes, {i: i for i in range(len(classes))}
    if classes.names == STREET.names:
        mapping = load_mapping("kitti6")
        yield mapping.classes, dict(mapping.ids)
