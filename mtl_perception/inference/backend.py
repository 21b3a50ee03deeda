"""Which engine runs the network."""

from __future__ import annotations

import torch

from mtl_perception.errors import ConfigError
from mtl_perception.inference.openvino.engine import RuntimeEngine
from mtl_perception.inference.torch.engine import Engine, select_device
from mtl_perception.network.model import MultiTaskRefineNet


def make_engine(
    network: MultiTaskRefineNet, device: str = "auto", precision: str = "auto", threads: int = 0, backend: str = "auto"
) -> Engine:
    """The engine for a device.

    Args:
        network: What `load_network` returns; it is copied, not changed.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, fp16 or bf16.
        threads: Threads on a CPU; 0: all cores.
        backend: auto (on a CPU OpenVINO where it is installed, else PyTorch), torch or openvino.

    Raises:
        DeviceError: The device is absent or has no room.
        ConfigError: The precision or the backend does not fit the device, or the backend asked for is not installed.
    """
    selected: torch.device = select_device(device)
    if backend == "openvino" and selected.type != "cpu":
        raise ConfigError(f"backend openvino runs on a CPU, not on device {selected}: use backend auto or torch, or device cpu")
    if selected.type != "cpu" or backend == "torch":
        return Engine(network, device, precision, threads)
    try:
        return RuntimeEngine(network, precision, threads)
    except ConfigError as error:
        if backend == "openvino":
            raise
        note = f"PyTorch runs the network, several times slower than OpenVINO would: {error}"
        return Engine(network, device, precision, threads, note)
