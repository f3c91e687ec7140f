# FrostNet small on ImageNet in simulated INT8: StatAssist, then QAT (compare the float config).
_base_ = ['./frostnet_imagenet.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
