# ESPNet (p=2, q=8), ReLU and resizing, in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnet_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
