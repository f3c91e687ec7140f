# ESPNet (p=2, q=8) as published, in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnet_original_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
