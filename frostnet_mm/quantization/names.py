"""What quantized checkpoints and tools call things; needs no other package."""

NAME = 'quantization'  # of the network in the model; its ranges are ``quantization.<layer>.min_val`` and ``max_val``
META = 'quantization'  # of what a checkpoint's meta says about it
PHASES = ('float warm-up', 'QAT', 'QAT, ranges frozen', 'QAT, ranges and batch norm frozen', 'calibrated')
EXECUTIONS = ('float', 'simulated', 'converted')
