# The baseline of the short schedule: everything as with FrostNet but the backbone entry and its channels.
_base_ = './ssdlite_frostnet_custom_10e.py'

level_channels = (32, 96, 1280, 512, 256, 256, 128)
model = dict(backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 7)))
