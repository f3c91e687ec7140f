# Lite R-ASPP on FrostNet small at output stride 16, in simulated INT8: StatAssist, then QAT.
_base_ = ['./lraspp_frostnet_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
