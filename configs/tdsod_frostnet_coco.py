# TDSOD on FrostNet small: everything as in the original but the backbone entry and its channels.
_base_ = './tdsod_coco.py'

model = dict(
    backbone=dict(_delete_=True, type='frostnet_mm.FrostNet', arch='small', out_indices=(1, 2)),
    neck=dict(in_channels=(40, 96)),
)
