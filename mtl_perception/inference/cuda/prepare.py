"""Choice between PyTorch's operators and Triton kernels."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from mtl_perception.errors import one_line
from mtl_perception.inference.cuda.network import AtenNetwork
from mtl_perception.network.model import MultiTaskRefineNet

KERNEL_TYPES = (torch.float16, torch.bfloat16)
LEAST_CAPABILITY = (8, 0)
"""Compute capability that the kernels are written for."""


def prepare_network(network: MultiTaskRefineNet, device: torch.device, dtype: torch.dtype) -> tuple[AtenNetwork, str]:
    """Put a copy of the network on a device: by Triton kernels where they can be used.

    Args:
        network: What `load_network` returns; it is not changed.
        device: Where to compute.
        dtype: Type of weights and maps.

    Returns:
        The network, and why it does without the kernels that a GPU could use; empty if it does not.
    """
    if device.type != "cuda" or dtype not in KERNEL_TYPES or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return AtenNetwork(network, device, dtype), ""
    slower = "PyTorch's operators run the network, several times slower than Triton kernels would"
    if find_spec("triton") is None:
        return AtenNetwork(network, device, dtype), f'{slower}: Triton is not installed; pip install "mtl_perception[triton]"'
    # Imported where it is used: an installation for a CPU has no Triton.
    from mtl_perception.inference.cuda.fused_network import FusedNetwork

    try:
        return FusedNetwork(network, device, dtype), ""
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        # Triton builds its launcher with the system's C compiler and keeps it in a cache below the home directory.
        return AtenNetwork(network, device, dtype), f"{slower}: they cannot be compiled here: {one_line(error)}"
