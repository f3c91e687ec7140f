"""Networks written for TensorRT, as onnxruntime runs them: on a GPU by its TensorRT provider, else on the CPU."""

from .onnxruntime import OnnxRuntime


class TensorRT(OnnxRuntime):
    """onnxruntime in the place of TensorRT, to check results.

    TensorRT itself builds the file: ``trtexec --onnx=network.onnx``. With onnxruntime-gpu,
    ``open(..., providers=['TensorrtExecutionProvider', 'CUDAExecutionProvider'])`` runs it there.
    """

    name = 'tensorrt'


ENGINE = TensorRT()
