"""PyTorch modules written after the papers, with the layer names of their authors' code.

ResNet34: He et al., 2016, names as in torchvision. SE-ResNeXt50: Xie et al., 2017; Hu et al., 2018, names as
in Cadene's pretrained-models. EfficientNet-lite0: Tan and Le, 2019, names as in efficientnet_lite_pytorch,
with TensorFlow's SAME padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1.0000000474974513e-3  # 1e-3 in float32, as the specification's constants are


class Basic(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet34(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (filters, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            blocks = []
            for number in range(count):
                blocks.append(Basic(channels, filters, 2 if stage > 1 and number == 0 else 1))
                channels = filters
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, 1000)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = [F.relu(self.bn1(self.conv1(x)))]
        x = F.max_pool2d(found[0], 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class SEBottleneck(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        width = filters // 2
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=32, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(filters)
        self.se_module = Squeeze(filters)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.se_module(self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y))))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SEResNeXt50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential()
        self.layer0.add_module("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
        self.layer0.add_module("bn1", nn.BatchNorm2d(64))
        channels = 64
        for stage, (filters, count) in enumerate(((256, 3), (512, 4), (1024, 6), (2048, 3)), start=1):
            blocks = []
            for number in range(count):
                blocks.append(SEBottleneck(channels, filters, 2 if stage > 1 and number == 0 else 1))
                channels = filters
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.last_linear = nn.Linear(2048, 1000)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = [F.relu(self.layer0(x))]
        x = F.max_pool2d(found[0], 3, 2, ceil_mode=True)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found


def _same(x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return layer(F.pad(x, pads))


class Inverted(nn.Module):
    def __init__(self, channels: int, expansion: int, kernel: int, stride: int, filters: int) -> None:
        super().__init__()
        width = channels * expansion
        self.adds = stride == 1 and channels == filters
        self._expand_conv = None
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=EPSILON)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=EPSILON)
        self._project_conv = nn.Conv2d(width, filters, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(filters, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(_same(y, self._depthwise_conv)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    ROWS = (
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
    )  # fmt: skip
    LAST = (0, 2, 4, 10, 15)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=EPSILON)
        blocks, channels = [], 32
        for expansion, kernel, stride, filters, repeats in self.ROWS:
            for number in range(repeats):
                blocks.append(Inverted(channels, expansion, kernel, stride if number == 0 else 1, filters))
                channels = filters
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=EPSILON)
        self._fc = nn.Linear(1280, 1000)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.relu6(self._bn0(_same(x, self._conv_stem)))
        found = []
        for place, block in enumerate(self._blocks):
            x = block(x)
            if place in self.LAST:
                found.append(x)
        return found

    def logits(self, last: torch.Tensor) -> torch.Tensor:
        """Return (n, 1000) for the last feature map."""
        return self._fc(F.relu6(self._bn1(self._conv_head(last))).mean((2, 3)))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "resnet34": ResNet34,
    "se_resnext50": SEResNeXt50,
    "efficientnet_lite0": EfficientNetLite0,
}
