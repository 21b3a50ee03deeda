"""Pretrained encoders, from every supported file format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mtl_perception.errors import WeightsError
from mtl_perception.network.description import published_description
from mtl_perception.network.mobilenetv2 import MobileNetV2
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.weights.encoders import load_encoder
from mtl_perception.weights.files import load_network, save_weights
from mtl_perception.weights.registry import PUBLISHED, Checksum

# MobileNetV2, written independently from table 2 of its paper: input channels, output channels and stride of each block
# after the first.
BLOCKS = (
    [(16, 24, 2), (24, 24, 1)]
    + [(24, 32, 2), (32, 32, 1), (32, 32, 1)]
    + [(32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 64, 1)]
    + [(64, 96, 1), (96, 96, 1), (96, 96, 1)]
    + [(96, 160, 2), (160, 160, 1), (160, 160, 1)]
    + [(160, 320, 1)]
)
# Indices of torchvision's last blocks of 24, 32, 64, 96, 160 and 320 channels.
ENDS = (3, 6, 10, 13, 16, 17)


class Block(nn.Module):
    def __init__(self, *parts: nn.Module, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(*parts)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def activated(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class TorchvisionMobileNet(nn.Module):
    """Classifier with the parameter names of torchvision's file; its output is the intermediate features."""

    def __init__(self) -> None:
        super().__init__()
        first = Block(activated(32, 32, 3, groups=32), nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), residual=False)
        features: list[nn.Module] = [activated(3, 32, 3, stride=2), first]
        for inputs, outputs, stride in BLOCKS:
            hidden = 6 * inputs
            features.append(
                Block(
                    activated(inputs, hidden, 1),
                    activated(hidden, hidden, 3, stride, groups=hidden),
                    nn.Conv2d(hidden, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                    residual=stride == 1 and inputs == outputs,
                )
            )
        self.features = nn.Sequential(*features, activated(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> list[Tensor]:
        kept = []
        for index, part in enumerate(self.features[:18]):
            x = part(x)
            if index in ENDS:
                kept.append(x)
        return kept


@pytest.fixture(scope="module")
def reference() -> TorchvisionMobileNet:
    """Network with random weights and batch-norm statistics that keep features from vanishing and saturating."""
    torch.manual_seed(3)
    model = TorchvisionMobileNet()
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight.data, 0.7, 1.3),
                (part.bias.data, -0.3, 0.3),
                (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
            ):
                assert values is not None
                values.uniform_(low, high)
            assert part.num_batches_tracked is not None
            part.num_batches_tracked.fill_(7)
    return model.eval()


@pytest.fixture
def torchvision_file(reference: TorchvisionMobileNet, tmp_path: Path) -> Path:
    path = tmp_path / "mobilenet_v2.pth"
    # The older of torchvision's files has PyTorch's legacy format, without zip.
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def encoder_of(state: dict[str, Tensor]) -> MobileNetV2:
    encoder = MobileNetV2()
    encoder.load_state_dict(state, strict=True)
    return encoder.eval()


def relative_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


def edited(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the state_dict in a file by `edit`, and return the path."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    return path


def test_torchvision_encoder_computes_the_features_of_torchvision(
    reference: TorchvisionMobileNet, torchvision_file: Path
) -> None:
    encoder = encoder_of(load_encoder(torchvision_file))
    image = torch.randn(1, 3, 97, 161, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        wanted, got = reference(image), encoder.encode(image)
    assert [feature.shape[1] for feature in wanted] == [24, 32, 64, 96, 160, 320]
    for a, b in zip(got, wanted, strict=True):
        assert float(b.std()) > 0.1  # constant features would agree trivially
        assert relative_difference(a, b) < 1e-5


def test_expansion_of_the_first_torchvision_block_is_the_identity(torchvision_file: Path) -> None:
    encoder = encoder_of(load_encoder(torchvision_file))
    x = torch.linspace(0, 6, 32 * 5 * 7).reshape(1, 32, 5, 7)
    with torch.inference_mode():
        y = encoder.get_submodule("layer2.0.output.0")(x)
    assert relative_difference(y, x) < 2e-7


def test_batch_norm_counters_are_kept_and_may_be_missing(torchvision_file: Path) -> None:
    state = load_encoder(torchvision_file)
    assert int(state["layer8.0.output.2.1.num_batches_tracked"]) == 7
    edited(torchvision_file, lambda entries: [entries.pop(name) for name in list(entries) if name.endswith("tracked")])
    without = load_encoder(torchvision_file)
    assert without.keys() == state.keys()
    assert int(without["layer8.0.output.2.1.num_batches_tracked"]) == 0


def test_fetched_encoder_is_loaded_by_name(torchvision_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="run `mtl_perception weights fetch mobilenetv2-imagenet`"):
        load_encoder("imagenet")
    content = torchvision_file.read_bytes()
    checksum = Checksum("SHA-256", hashlib.sha256(content).hexdigest()[:8])
    entry = replace(PUBLISHED["mobilenetv2-imagenet"], checksum=checksum)
    monkeypatch.setitem(PUBLISHED, "mobilenetv2-imagenet", entry)
    entry.path.parent.mkdir()
    entry.path.write_bytes(content)
    wanted = load_encoder(torchvision_file)
    for name in ("imagenet", "mobilenetv2-imagenet"):
        got = load_encoder(name)
        assert all(torch.equal(got[entry_name], tensor) for entry_name, tensor in wanted.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_encoder_with_the_names_of_this_package_is_loaded(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    state = MobileNetV2().state_dict()
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "encoder.pt")
    got = load_encoder(tmp_path / "encoder.pt")
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in state.items())


def test_encoder_of_the_shared_data_is_loaded(shared_data: Path) -> None:
    path = shared_data / "mobilenetv2_imagenet" / "encoder.pt"
    got, wanted = load_encoder(path), torch.load(path, weights_only=True)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("form", ["own", "published"])
def test_encoder_of_a_complete_network_is_loaded(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    description = published_description(6, 2)
    network = MultiTaskRefineNet(description)
    path = tmp_path / "weights"
    if form == "own":
        save_weights(path, network.state_dict(), description, half=True)
    else:
        torch.save({"state_dict": network.state_dict()}, path)
    state = load_encoder(path)
    loaded = load_network(path).state_dict()
    assert state.keys() == MobileNetV2().state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def test_encoder_of_shipped_weights_is_loaded() -> None:
    state = load_encoder("street")
    loaded = load_network("street").state_dict()
    assert len(encoder_of(state).state_dict()) == len(state)
    assert torch.equal(state["layer8.0.output.2.0.weight"], loaded["layer8.0.output.2.0.weight"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda s: s.pop("features.4.conv.0.0.weight"),
            "entry 'features.4.conv.0.0.weight' (144, 24, 1, 1) is missing: the MobileNetV2 encoder is incomplete",
        ),
        (
            lambda s: s.update({"features.1.conv.3.weight": torch.zeros(16)}),
            "unexpected entry 'features.1.conv.3.weight' (16,): not a parameter of this encoder",
        ),
        (
            lambda s: s.update({"features.0.0.weight": torch.zeros(16, 3, 3, 3)}),
            "entry 'features.0.0.weight' has shape (16, 3, 3, 3), expected (32, 3, 3, 3)",
        ),
        (
            lambda s: s.update({"features.0.1.weight": torch.zeros(32, dtype=torch.int32)}),
            "entry 'features.0.1.weight' is torch.strided torch.int32, expected torch.float32",
        ),
        (
            lambda s: s["features.17.conv.3.running_var"].fill_(torch.nan),
            "entry 'features.17.conv.3.running_var' has non-finite values: the file is damaged",
        ),
        (lambda s: s.update(epoch=3), "not a checkpoint: it has no 'state_dict' of tensors"),
    ],
)
def test_error_names_the_mismatched_entry(
    torchvision_file: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    path = edited(torchvision_file, edit)
    with pytest.raises(WeightsError) as caught:
        load_encoder(path)
    assert str(caught.value) == f"{path}: {message}"


def test_mismatched_encoder_with_the_names_of_this_package_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    torch.save(MobileNetV2().state_dict(), path)
    edited(path, lambda state: state.update({"layer9.0.weight": torch.zeros(3)}))
    with pytest.raises(WeightsError, match=r"unexpected entry 'layer9.0.weight' \(3,\)"):
        load_encoder(path)
    edited(path, lambda state: state.pop("layer5.3.output.1.1.bias"))
    with pytest.raises(WeightsError, match=r"entry 'layer5.3.output.1.1.bias' \(384,\) is missing"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02 no pickle", "cannot be read safely"),
        (b"PK\x03\x04 no zip", "cannot be read safely"),
        (b"<html>Please log in</html>", "is an HTML page, not the file"),
        (b"", "neither a safetensors file nor a PyTorch checkpoint"),
    ],
)
def test_other_file_formats_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_encoder(tmp_path / "file")


def test_unknown_name_suggests_the_closest(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"did you mean 'mobilenetv2-imagenet'\?"):
        load_encoder("mobilenet-imagenet")
