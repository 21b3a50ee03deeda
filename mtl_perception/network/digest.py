"""Digests of networks, and the certificates that are valid for them."""

from __future__ import annotations

import hashlib
import json

from mtl_perception.network.certificate import REFERENCE, Loss, loss
from mtl_perception.network.description import Description
from mtl_perception.network.model import MultiTaskRefineNet


def network_digest(network: MultiTaskRefineNet) -> str:
    """Hash everything that a compiled network depends on: names, shapes and values of parameters, normalization, grid."""
    description = network.description
    digest = hashlib.sha256(repr((description.mean, description.std, description.tasks, description.grid)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def certificate_digest(network: MultiTaskRefineNet, arithmetic: str) -> str:
    """Hash what a certificate depends on: the network and, for int8, its quantization table."""
    return _with_table(network_digest(network), network.description, arithmetic)


def certified_losses(network: MultiTaskRefineNet) -> dict[str, Loss]:
    """Return the certified loss by arithmetic, of certificates that were measured with these very parameters and this table."""
    description = network.description
    if not description.certified:
        return {}
    digest = network_digest(network)
    valid = {name: one for name, one in description.certified.items() if one.digest == _with_table(digest, description, name)}
    if REFERENCE not in valid:
        return {}
    losses = {name: loss(one, valid[REFERENCE]) for name, one in valid.items()}
    return {name: found for name, found in losses.items() if found is not None}


def _with_table(digest: str, description: Description, arithmetic: str) -> str:
    table = description.quantization if arithmetic.startswith("int8") else {}
    return hashlib.sha256(f"{digest} {json.dumps(table, sort_keys=True)}".encode()).hexdigest()
