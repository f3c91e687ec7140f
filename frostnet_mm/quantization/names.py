"""What quantized checkpoints and tools call things; needs no other package."""

NAME = 'quantization'  # of the network in the model; its ranges are ``quantization.<layer>.min_val`` and ``max_val``
META = 'quantization'  # of what a checkpoint's meta says about it
CALIBRATED = 'calibrated'  # the phase of a checkpoint that was not trained with quantization
EXECUTIONS = ('float', 'simulated', 'converted')
