# The demo: the float config in simulated INT8, with StatAssist (the warm-up) and GradBoost (the optimizer).
_base_ = ['./ssdlite_frostnet_minicoco.py', '../_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
optim_wrapper = dict(optimizer=dict(type='frostnet_mm.GradBoostAdamW', mode='paper'))
