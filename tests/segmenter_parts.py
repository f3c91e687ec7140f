"""What ESPNet-like segmenters and LR-ASPP are made of, as backbones for ``tiny_segmenter``: one map of 8 channels."""

import torch
from tiny_segmenter import images, prepared_segmenter
from torch import Tensor, nn
from torch.nn import functional


class EspParts(nn.Module):
    """The image normalized and pooled, parallel dilated convolutions, sums of them, norms behind concats and adds."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.BatchNorm2d(3, eps=1e-3)
        self.stem = nn.Conv2d(3, 13, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16, eps=1e-3)
        self.reduce = nn.Conv2d(16, 8, 1, groups=4, bias=False)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, rate, rate, bias=False) for rate in (1, 2, 4))
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 2, 2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(32, eps=1e-3)
        self.project = nn.Conv2d(32, 16, 1, groups=4, bias=False)
        self.last_norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, 3, H, W) to (N, 8, H / 2, W / 2)."""
        x = self.input(x)
        x = functional.relu(self.stem_norm(torch.cat([self.stem(x), functional.avg_pool2d(x, 3, 2, 1)], 1)))
        reduced = self.reduce(x)
        maps = [branch(reduced) for branch in self.branches]
        for index in (1, 2):
            maps[index] = maps[index] + maps[index - 1]
        y = functional.relu_(self.norm(torch.cat([*maps, self.depthwise(reduced)], 1)))
        return (self.last(functional.relu6(self.last_norm(x + self.project(y)))),)


class GateParts(nn.Module):
    """The gate of LR-ASPP and a bilinear resize."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.aspp, self.gate = nn.Conv2d(24, 8, 1), nn.Conv2d(24, 8, 1)
        self.skip = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, 3, H, W) to (N, 8, H / 2, W / 2)."""
        x = functional.relu(self.stem(x))
        y = functional.relu(self.deep(x))
        y = functional.relu(self.aspp(y)) * self.gate(functional.adaptive_avg_pool2d(y, 1)).sigmoid()
        y = functional.interpolate(y, size=x.shape[2:], mode='bilinear', align_corners=False)
        return (y + self.skip(x),)


class PreluParts(nn.Module):
    """mmseg's form of the original ESPNet: PReLU, and transposed convolutions with and without groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_slope = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.PReLU(16)
        self.norm, self.slope = nn.BatchNorm2d(16), nn.PReLU(16)
        self.mix = nn.Conv2d(16, 16, 1, bias=False)
        self.down = nn.Conv2d(16, 16, 3, 2, 1, groups=4)
        self.up, self.up_norm = nn.ConvTranspose2d(16, 16, 2, 2, bias=False), nn.BatchNorm2d(16)
        self.grouped_up, self.last = nn.ConvTranspose2d(16, 16, 2, 2, groups=4, bias=False), nn.Conv2d(32, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, 3, H, W) to (N, 8, H / 2, W / 2)."""
        x = self.stem_slope(self.stem(x))
        y = self.slope(self.norm(x + self.mix(x)))
        y = self.down(y)
        return (self.last(torch.cat([functional.relu(self.up_norm(self.up(y))), self.grouped_up(y)], 1)),)


def settled(backbone, **settings):
    """A segmenter with factors of both signs and ranges from three batches, in simulated INT8 and evaluation mode."""
    torch.manual_seed(0)
    model, network = prepared_segmenter(backbone, **settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    network.freeze_norms = True
    network.train().observe(True)
    with torch.no_grad():
        for seed in range(3):
            network.flat(images(seed))
    network.simulate(True)
    model.eval()
    return model, network.eval()
