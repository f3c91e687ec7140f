# A classifier on FrostNet small for images in folders, trained in simulated INT8 (compare the float config).
_base_ = ['./frostnet_custom_cls.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
