# SSDLite on FrostNet small for any data set in COCO format, trained in simulated INT8 (compare the float config).
_base_ = ['./ssdlite_frostnet_custom.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
