# ESPNetv2's decoder on FrostNet engine-m in simulated INT8: StatAssist, then QAT.
_base_ = ['./espnetv2_frostnet_engine_m_cityscapes.py', './_base_/qat_segmentation.py']
default_hooks = dict(qat={{_base_.qat_hook}})
