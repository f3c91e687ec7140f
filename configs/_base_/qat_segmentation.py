# qat.py with the float warm-up of segmentation in the FrostNet paper's release: one epoch.
_base_ = './qat.py'
qat_hook = dict(warmup='1 epoch')
