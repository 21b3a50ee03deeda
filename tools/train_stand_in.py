"""Train the stand-in `street` weights on the real pictures of a shared data folder, on a CPU, in half an hour to an hour.

    python tools/train_stand_in.py --data ../shared/data --out build/street.safetensors

A plain recipe (no teacher, no synthetic pictures); the training command proper replaces it. What matters:
depth is learned as its logarithm (the raw output is log metres: `depth_transform` "exp"), the decoder starts small
because it has no normalisation and would saturate its ReLU6, and a picture shrunk by s shows the same scene to a camera
of s times the focal length, so its depths are divided by s to stay metric for the one focal length that the network knows.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.labels import CAMVID_TO_STREET, CITYSCAPES_TO_STREET, STREET, STREET_TO_KITTI6, lookup
from mtl_perception.net.description import IMAGENET_MEAN, IMAGENET_STD, KITTI_CAMERA, Description
from mtl_perception.net.model import MultiTaskRefineNet
from mtl_perception.net.weights import save_weights

CROP_HEIGHT, CROP_WIDTH = 192, 512
MAX_DEPTH = 80.0
SKY_DEPTH = 130.0  # what the network should say of the sky, so that it comes out as beyond max_depth
SKY = STREET.names.index("sky")
RARE = {"pole": 2.5, "sign": 2.5, "person": 4.0, "cyclist": 4.0, "fence": 1.5, "sidewalk": 1.5}


@dataclass(frozen=True)
class Sample:
    """Paths of one picture and what is known of it."""

    image: Path
    label: Path | None = None
    mapping: str = ""
    depth: Path | None = None

    def load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RGB H x W x 3 uint8, labels H x W uint8 (255 = none), depth H x W float32 metres (0 = none)."""
        bgr = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        labels = np.full(bgr.shape[:2], 255, np.uint8)
        depth = np.zeros(bgr.shape[:2], np.float32)
        if self.label is not None:
            table = lookup(CITYSCAPES_TO_STREET if self.mapping == "cityscapes" else CAMVID_TO_STREET)
            labels = table[cv2.imread(str(self.label), cv2.IMREAD_UNCHANGED)]
        if self.depth is not None:
            depth = cv2.imread(str(self.depth), cv2.IMREAD_UNCHANGED).astype(np.float32) / 256
        return bgr[..., ::-1], labels, depth


def kitti2015(root: Path, held_out: bool) -> list[Sample]:
    """KITTI 2015 by runs of ten numbers: every fifth run is held out, so that neighbours stay together."""
    samples = []
    for image in sorted((root / "kitti2015/image").glob("*.jpg")):
        if ((int(image.stem[:6]) // 10) % 5 == 2) != held_out:
            continue
        depth = root / "kitti2015/depth" / f"{image.stem}.png"
        label = root / "kitti2015/label" / f"{image.stem}.png"
        samples.append(Sample(image, label, "cityscapes", depth if depth.exists() else None))
    return samples


def depth_only(root: Path) -> list[Sample]:
    """Pictures with LiDAR or stereo depth, all drives but 0009, which is held out whole."""
    samples = []
    for folder in ("sfnd", "residential", "slamdemo", "single"):
        for image in sorted((root / "kitti_depth" / folder / "image").glob("*.jpg")):
            for kind in ("lidar", "sgbm"):
                depth = root / "kitti_depth" / folder / kind / f"{image.stem}.png"
                if depth.exists():
                    samples.append(Sample(image, depth=depth))
    return samples


def camvid(root: Path) -> list[Sample]:
    """CamVid's training pictures, labels only."""
    return [
        Sample(image, root / "camvid/train/label" / f"{image.stem}.png", "camvid")
        for image in sorted((root / "camvid/train/image").glob("*.jpg"))
    ]


def crop(sample: Sample, rng: np.random.Generator, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random crop at a random scale, flipped half the time; depth stays metric for the unscaled focal length."""
    image, labels, depth = sample.load()
    camvid_zoom = 1.6 if sample.mapping == "camvid" else 1.0
    scale = rng.uniform(low, high) * camvid_zoom
    scale = max(scale, CROP_HEIGHT / image.shape[0], CROP_WIDTH / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST) / scale
    y = int(rng.integers(0, size[1] - CROP_HEIGHT + 1))
    x = int(rng.integers(0, size[0] - CROP_WIDTH + 1))
    window = np.s_[y : y + CROP_HEIGHT, x : x + CROP_WIDTH]
    image, labels, depth = image[window], labels[window], depth[window]
    if rng.random() < 0.5:
        image, labels, depth = image[:, ::-1], labels[:, ::-1], depth[:, ::-1]
    gain = rng.uniform(0.75, 1.25, 3) * rng.uniform(0.85, 1.15)
    shade = np.clip(image * gain + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    return shade, labels, depth


def to_input(image: np.ndarray) -> Tensor:
    """H x W x 3 uint8 to 1 x 3 x H x W, normalised."""
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    return (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


def losses(logits: Tensor, raw: Tensor, labels: Tensor, depth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy, and L1 of log depth with a hinge that keeps the sky far."""
    size = labels.shape[1:]
    logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    log_depth = F.interpolate(raw.float(), size=size, mode="bilinear", align_corners=False)[:, 0]
    segmentation = F.cross_entropy(logits, labels, weights, ignore_index=255)
    known = (depth > 0.5) & (depth < 200)
    depth_loss = (log_depth[known] - depth[known].log()).abs().mean() if known.any() else log_depth.sum() * 0
    sky = labels == SKY
    if sky.any():
        depth_loss = depth_loss + 0.1 * F.relu(math.log(SKY_DEPTH) - log_depth[sky]).mean()
    return torch.nan_to_num(segmentation), depth_loss


def initialise(network: MultiTaskRefineNet, encoder: Path) -> None:
    """ImageNet encoder; a decoder that starts small; 15 m everywhere."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("layer"):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            with torch.no_grad():
                module.weight *= 0.1 if name.startswith("crp") else 0.3
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(network.get_parameter("depth.bias"), math.log(15.0))
    missing, surplus = network.load_state_dict(torch.load(encoder, weights_only=True), strict=False)
    if surplus or any(name.startswith("layer") for name in missing):
        raise SystemExit(f"{encoder}: does not fit the encoder ({surplus[:1] or missing[:1]})")


@torch.inference_mode()
def calibrate(network: MultiTaskRefineNet, samples: list[Sample]) -> float:
    """Shift the raw depth (log metres) so that its median error on training pictures is 0; crops had left an offset."""
    network.eval()
    medians = []
    for sample in samples[::5]:
        image, _, truth = sample.load()
        raw = network(to_input(image).contiguous(memory_format=torch.channels_last))[1]
        log_depth = F.interpolate(raw, size=truth.shape, mode="bicubic", align_corners=False)[0, 0].numpy()
        known = (truth > 1e-3) & (truth < MAX_DEPTH)
        medians.append(float(np.median(np.log(truth[known]) - log_depth[known])))
    shift = float(np.mean(medians))
    network.get_parameter("depth.bias").data.add_(shift)
    return shift


@torch.inference_mode()
def evaluate(network: MultiTaskRefineNet, root: Path) -> dict[str, object]:
    """mIoU over 12 and over KITTI-6 classes, AbsRel and RMSE to 80 m (Eigen/Garg crop) on what was held out."""
    network.eval()
    confusion = np.zeros((12, 12))
    confusion6 = np.zeros((6, 6))
    to6 = lookup(STREET_TO_KITTI6)
    drive = root / "kitti_raw/2011_09_26/2011_09_26_drive_0009_sync/image_02/data"
    sets = {
        "kitti2015": kitti2015(root, held_out=True),
        "drive_0009": [
            Sample(image, depth=root / "kitti_depth/drive_0009/lidar" / image.name) for image in sorted(drive.glob("*.png"))
        ],
    }
    report: dict[str, object] = {}
    for name, samples in sets.items():
        errors = []
        for sample in samples:
            image, labels, truth = sample.load()
            logits, raw = network(to_input(image).contiguous(memory_format=torch.channels_last))[:2]
            size = labels.shape
            scores = F.interpolate(logits, size=size, mode="bicubic", align_corners=False)[0].numpy()
            depth = F.interpolate(raw, size=size, mode="bicubic", align_corners=False)[0, 0].exp().numpy()
            known = labels != 255
            np.add.at(confusion, (labels[known], scores.argmax(0)[known]), 1)
            six = to6[labels]
            guess6 = scores[[8, 3, 0, 1, 7, 11]].argmax(0)
            np.add.at(confusion6, (six[six != 255], guess6[six != 255]), 1)
            h, w = size
            inside = np.zeros(size, bool)
            inside[int(0.40810811 * h) : int(0.99189189 * h), int(0.03594771 * w) : int(0.96405229 * w)] = True
            valid = inside & (truth > 1e-3) & (truth < MAX_DEPTH)
            if valid.any():
                d, t = np.clip(depth[valid], 1e-3, MAX_DEPTH), truth[valid]
                ratio = np.maximum(d / t, t / d)
                errors.append((np.mean(np.abs(d - t) / t), np.sqrt(np.mean((d - t) ** 2)), np.mean(ratio < 1.25)))
        abs_rel, rmse, delta1 = np.mean(errors, axis=0)
        report[name] = {"AbsRel": round(abs_rel, 4), "RMSE": round(rmse, 3), "delta1": round(delta1, 4), "frames": len(errors)}
    with np.errstate(invalid="ignore"):
        iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
        iou6 = np.diag(confusion6) / (confusion6.sum(0) + confusion6.sum(1) - np.diag(confusion6))
    report["mIoU12"] = round(float(np.nanmean(iou)), 4)
    report["mIoU_kitti6"] = round(float(np.nanmean(iou6)), 4)
    report["IoU"] = {n: round(float(v), 3) for n, v in zip(STREET.names, iou, strict=True)}
    return json.loads(json.dumps(report, default=float))


def describe(report: dict[str, object], command: str, hours: float) -> Description:
    """The model card."""
    return Description(
        name="street",
        classes=STREET.names,
        colors=STREET.colors,
        depth_transform="exp",
        depth_range=(1.0, MAX_DEPTH),
        camera=KITTI_CAMERA,
        licence="research use only: trained on KITTI (CC BY-NC-SA 3.0) and CamVid (research use)",
        card={
            "what": "a stand-in, trained for an hour on a CPU so that everything runs on a network that sees; "
            "not for use on a vehicle",
            "data": "KITTI 2015 (128 frames, labels, 79 of them with depth), 108 KITTI frames with LiDAR or stereo depth, "
            "CamVid train (367 frames, labels); encoder from ImageNet (ONNX Model Zoo mobilenetv2-7, Apache-2.0)",
            "held_out": "the 32 KITTI 2015 frames whose number // 10 % 5 == 2 (24 with depth); "
            "KITTI raw drive 2011_09_26_0009 whole",
            "metrics": report,
            "command": command,
            "hours": round(hours, 2),
            "machine": "two CPU cores, shared with other work",
        },
    )


def main() -> None:
    """Train, checkpointing; evaluate; write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with kitti2015, kitti_depth, camvid, mobilenetv2_imagenet"
    )
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    network = MultiTaskRefineNet(describe({}, "", 0))
    initialise(network, args.data / "mobilenetv2_imagenet/encoder.pt")
    network = network.to(memory_format=torch.channels_last)
    encoder = [p for n, p in network.named_parameters() if n.startswith("layer")]
    decoder = [p for n, p in network.named_parameters() if not n.startswith("layer")]
    optimiser = torch.optim.AdamW([{"params": encoder, "lr": 2e-4}, {"params": decoder, "lr": 6e-4}], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / 50, 0.5 * (1 + math.cos(math.pi * min(i / args.steps, 1))) + 0.01)
    )
    ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
    checkpoint = args.out.with_suffix(".checkpoint")
    start, spent = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        ema, start, spent = saved["ema"], saved["step"], saved["seconds"]
        print(f"resumed at step {start}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sets = [kitti2015(args.data, held_out=False), depth_only(args.data), camvid(args.data)]
    share = [3, 1, 2]
    weights = torch.tensor([RARE.get(name, 1.0) for name in STREET.names])
    began = time.monotonic()
    spent_now = spent
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])
        late = step > 0.7 * args.steps
        low, high = (0.8, 1.1) if late else (0.5, 1.1)
        chosen = [pool[rng.integers(len(pool))] for pool, n in zip(sets, share, strict=True) for _ in range(n)]
        crops = [crop(sample, rng, low, high) for sample in chosen]
        x = torch.cat([to_input(image) for image, _, _ in crops]).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(np.stack([c[1] for c in crops])).long()
        depth = torch.from_numpy(np.stack([c[2] for c in crops]))
        network.eval()  # batch norm keeps ImageNet's statistics: six crops are too few to measure new ones
        with torch.autocast("cpu", torch.bfloat16):
            logits, raw = network(x)[:2]
        segmentation, depth_loss = losses(logits, raw, labels, depth, weights)
        optimiser.zero_grad(set_to_none=True)
        (segmentation + depth_loss).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        decay = min(0.997, (step + 1) / (step + 20))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                ema[name].lerp_(value, 1 - decay)
        elapsed = spent + time.monotonic() - began
        if step % 25 == 0:
            print(f"{step} ce {segmentation.item():.3f} depth {depth_loss.item():.3f} {elapsed:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            torch.save({**state, "ema": ema, "step": step + 1, "seconds": elapsed}, checkpoint)
        spent_now = elapsed
    # What is shipped is the average, in half precision: that is what is calibrated and evaluated.
    network.load_state_dict({name: value.half().float() if value.is_floating_point() else value for name, value in ema.items()})
    shift = calibrate(network, [s for s in (*kitti2015(args.data, held_out=False), *depth_only(args.data)) if s.depth])
    report = evaluate(network, args.data)
    print(f"depth scaled by {math.exp(shift):.3f}", json.dumps(report), flush=True)
    command = f"python tools/train_stand_in.py --steps {args.steps} --seed {args.seed}"
    save_weights(args.out, network.state_dict(), describe(report, command, spent_now / 3600), half=True)


if __name__ == "__main__":
    main()
