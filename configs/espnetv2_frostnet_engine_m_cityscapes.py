# ESPNetv2's decoder on FrostNet engine-m, which was searched for INT8 on CPUs (docs/search.md), from scratch.
_base_ = './espnetv2_frostnet_cityscapes.py'

model = dict(backbone=dict(arch='engine-m'))
