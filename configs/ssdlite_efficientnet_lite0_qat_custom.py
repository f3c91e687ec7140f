# SSDLite on EfficientNet-Lite0 with ImageNet's weights in simulated INT8: a float warm-up, then QAT.
_base_ = ['./ssdlite_efficientnet_lite0_custom.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
