"""What quantized checkpoints and tools call things; needs no other package."""

NAME = 'quantization'  # of the network in the model; its ranges are ``quantization.<layer>.min_val`` and ``max_val``
META = 'quantization'  # of what a checkpoint's meta says about it
CALIBRATED = 'calibrated'  # the phase of a checkpoint that was not trained with quantization
#: Of INT8 weights: -127 to 127, or -63 to 63, with which a sum of two products fits into 16 bits.
WEIGHT_BITS = (8, 7)
EXECUTIONS = ('float', 'simulated', 'converted')
