# MobileNetV3 large in the classifier of frostnet_custom_cls.py.
_base_ = './frostnet_custom_cls.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='frostnet_mm.MobileNetV3',
        arch='large',
        output_stride=32,
        out_indices=(16,),
        norm_cfg=dict(type='BN'),
    ),
    head=dict(
        _delete_=True,
        type='frostnet_mm.ClsHead',
        in_channels=960,
        num_classes=2,
        hidden_channels=1280,
        hidden_after_pool=True,
        dropout=0.2,
        act_cfg=dict(type='HSwish'),
    ),
)
