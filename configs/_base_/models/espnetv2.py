# ESPNetv2's decoder on maps of strides 2, 4, 8 and 16 (32, 64, 128 and 256 channels, ESPNetv2 at width 1): ReLU in
# place of PReLU, which keeps the network in INT8, and mmseg's resizing (align_corners=False).
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    decode_head=dict(
        type='frostnet_mm.ESPNetv2Head',
        in_channels=(32, 64, 128, 256),
        channels=128,
        num_classes=19,
        dropout_ratio=0.2,
        norm_cfg=norm_cfg,
        act_cfg=dict(type='ReLU'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
