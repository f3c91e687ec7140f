# Quantization-aware training for any config of mmdet or mmseg that inherits this file beside its float config:
#
#   _base_ = ['./ssdlite_frostnet_coco.py', './_base_/qat.py']
#   default_hooks = dict(qat={{_base_.qat_hook}})
#
# A default hook, not a custom one: default hooks are merged by name, so that a config or the command line can change
# one option (default_hooks.qat.warmup='500 iterations') or switch it off (default_hooks.qat=None).
# StatAssist is the float warm-up; GradBoost comes with a GradBoost optimizer (docs/quantization.md).
qat_hook = dict(
    type='frostnet_mm.QATHook',
    numerics='onnx',  # onnxruntime and OpenVINO; 'executorch' for phones
    warmup='2 epochs',
    freeze_bn_at='80 %',
    freeze_observers_at='90 %',
    quantize_outputs=False,
)
