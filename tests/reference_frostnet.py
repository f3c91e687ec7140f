"""FrostNet written a second time, in plain torch and with the module names of the authors' release.

Independent of the package: the tests hold its parameter names and outputs against ours.
"""

import torch
from torch import nn

# kernel, channels, expansion, reduction, stride
SMALL = [
    [(3, 16, 1, 1, 1), (5, 24, 3, 4, 2), (3, 24, 3, 4, 1)],
    [(5, 40, 3, 4, 2)],
    [(5, 80, 3, 4, 2), (5, 80, 3, 4, 1), (3, 80, 3, 4, 1), (5, 96, 3, 2, 1), (5, 96, 3, 4, 1), (5, 96, 3, 4, 1)],
    [(5, 192, 6, 4, 2), (5, 192, 6, 4, 1), (5, 192, 6, 4, 1)],
    [(5, 320, 6, 2, 1)],
]


def nearest_8(value):
    result = max(8, 8 * int((value + 4) // 8))
    return result if result >= 0.9 * value else result + 8


class Unit(nn.Module):
    def __init__(self, cin, cout, k=1, s=1, groups=1, relu=True):
        super().__init__()
        layers = [nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
        self.conv = nn.Sequential(*layers, *([nn.ReLU()] if relu else []))

    def forward(self, x):
        return self.conv(x)


class Block(nn.Module):
    def __init__(self, cin, cout, k, e, r, s):
        super().__init__()
        self.add = s == 1 and cin == cout
        width = cin
        if e > 1:
            if cin // r >= 8:
                self.squeeze_conv = Unit(cin, nearest_8(cin // r))
                width += nearest_8(cin // r)
            self.conv1 = Unit(width, width * e)
            width *= e
        self.conv2 = Unit(width, width, k, s, groups=width)
        self.reduce_conv = Unit(width, cout, relu=False)

    def forward(self, x):
        y = x
        if hasattr(self, 'squeeze_conv'):
            y = torch.cat([self.squeeze_conv(x), x], 1)
        if hasattr(self, 'conv1'):
            y = self.conv1(y)
        y = self.reduce_conv(self.conv2(y))
        return y + x if self.add else y


class ReferenceFrostNetSmall(nn.Module):
    def __init__(self, width=1.0, num_classes=1000):
        super().__init__()
        c = nearest_8(32 * min(1.0, width))
        self.conv1 = Unit(3, c, 3, 2)
        for index, rows in enumerate(SMALL, start=1):
            blocks = []
            for k, out, e, r, s in rows:
                blocks.append(Block(c, nearest_8(int(out * width)), k, e, r, s))
                c = nearest_8(int(out * width))
            setattr(self, f'layer{index}', nn.Sequential(*blocks))
        self.last_layer = Unit(c, 1280)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Conv2d(1280, num_classes, 1))

    def features(self, x):
        x = self.conv1(x)
        outs = []
        for index in range(1, 6):
            x = getattr(self, f'layer{index}')(x)
            outs.append(x)
        return outs

    def forward(self, x):
        return self.classifier(self.last_layer(self.features(x)[-1])).flatten(1)


def randomize(model, seed=0):
    """Random weights and batch norm statistics: fresh ones would hide an exchanged mean and variance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
    return model
