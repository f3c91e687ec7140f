# ESPNetv2 at width 1, ReLU, in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnetv2_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
