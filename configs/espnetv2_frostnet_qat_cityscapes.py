# ESPNetv2's decoder on FrostNet small's maps of strides 4, 8, 16 and 32, in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnetv2_frostnet_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
