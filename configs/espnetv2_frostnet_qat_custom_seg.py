# ESPNetv2's decoder on FrostNet small for images and labels of one's own, in simulated INT8 (compare the float config).
_base_ = ['./espnetv2_frostnet_custom_seg.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
