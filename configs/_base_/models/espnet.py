# ESPNet's decoder on maps of strides 2, 4 and 8 (19, 131 and 256 channels, ESPNet): ReLU in place of PReLU, and 1x1
# convolutions and resizing in place of transposed convolutions, which keep the network in INT8. 20 channels, four for
# each of an ESP block's five branches, in place of the number of classes.
norm_cfg = dict(type='BN', eps=0.001)
model = dict(
    type='EncoderDecoder',
    decode_head=dict(
        type='frostnet_mm.ESPNetHead',
        in_channels=(19, 131, 256),
        channels=20,
        num_classes=19,
        norm_cfg=norm_cfg,
        act_cfg=dict(type='ReLU'),
        align_corners=False,
        # Class weights (configs/espnet_weighted_cityscapes.py) go without avg_non_ignore: mmseg's loss then divides by
        # the weights of the labelled pixels, as PyTorch's does, and raises with both.
        # Hard pixels only: sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100000)
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
