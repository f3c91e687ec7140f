"""Stand-in."""

PRESETS = ('onnx', 'executorch')
