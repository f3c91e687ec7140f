# TDSOD on FrostNet small, 300x300, from scratch, in simulated INT8: StatAssist, then QAT.
_base_ = ['./tdsod_frostnet_coco.py', './_base_/qat.py']
default_hooks = dict(qat={{_base_.qat_hook}})
