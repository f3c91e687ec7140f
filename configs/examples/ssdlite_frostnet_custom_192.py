# SSDLite on FrostNet small at 192x192: a third of the cost of 320x320, for experiments on a CPU.
_base_ = '../ssdlite_frostnet_custom.py'

input_size = (192, 192)
level_channels = (40, 96, 320, 512, 256, 256)
assert _base_.input_size == input_size, 'read with frostnet_mm.engine.load_config, or take the copy in the work dir'

model = dict(
    neck=dict(level_strides=(2, 2, 2), level_paddings=(1, 1, 1)),
    bbox_head=dict(
        anchor_generator=dict(
            strides=[8, 16, 32, 64, 96, 192],
            ratios=[[2, 3], [2, 3], [2, 3], [2, 3], [2, 3], [2, 3]],
            min_sizes=[12, 24, 48, 84, 120, 156],
            max_sizes=[24, 48, 84, 120, 156, 190],
        ),
    ),
)
train_dataloader = dict(num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader
