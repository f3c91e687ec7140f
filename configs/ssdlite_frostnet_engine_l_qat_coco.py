# SSDLite on FrostNet engine-l, 320x320, from scratch, in simulated INT8: StatAssist, then QAT.
_base_ = ['./ssdlite_frostnet_engine_l_coco.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
