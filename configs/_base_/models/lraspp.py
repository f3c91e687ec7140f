# Lite R-ASPP on maps of strides 4 and 16 (24 and 960 channels, MobileNetV3-Large).
norm_cfg = dict(type='BN', eps=0.001)
model = dict(
    type='EncoderDecoder',
    decode_head=dict(
        type='frostnet_mm.LRASPPHead',
        in_channels=(24, 960),
        channels=128,
        num_classes=19,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        act_cfg=dict(type='ReLU'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
