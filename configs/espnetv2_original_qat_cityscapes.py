# ESPNetv2 at width 1 as published, in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnetv2_original_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
