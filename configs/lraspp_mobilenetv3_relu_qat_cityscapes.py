# Lite R-ASPP on MobileNetV3-Large in its ReLU form, in simulated INT8: StatAssist, then QAT.
_base_ = ['./lraspp_mobilenetv3_relu_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
