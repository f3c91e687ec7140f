# The baseline at 192x192: everything as with FrostNet but the backbone entry and its channels.
_base_ = './ssdlite_frostnet_custom_192.py'

level_channels = (32, 96, 1280, 512, 256, 256)
model = dict(backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 7)))
