# Lite R-ASPP on MobileNetV2 (ReLU in place of ReLU6) at output stride 16, in simulated INT8: StatAssist, then QAT.
_base_ = ['./lraspp_mobilenetv2_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
