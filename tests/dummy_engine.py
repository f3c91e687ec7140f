"""An engine of another package, whole in one file: ONNX, without any of onnxruntime's fusions.

A config knows it by ``custom_imports = dict(imports=['dummy_engine'])``. A copy of this file lies in the deployments
that are made for it, where neither torch nor frostnet_mm is imported.
"""

try:  # the copy in a deployment
    from .base import DeviceEngine

    OnnxEngine = None
except ImportError:
    from frostnet_mm.deploy.engines import ENGINES, OnnxEngine
    from frostnet_mm.device.engines import DeviceEngine


def open_session(source, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = threads or 1, 3
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


class DummyDevice(DeviceEngine):
    name = 'dummy'
    module = package = 'onnxruntime'

    def open(self, path, description, threads=None):
        session, name = open_session(path, threads), description['input']['name']
        outputs = [output['name'] for output in description['outputs']]
        return lambda images: session.run(outputs, {name: images}), session

    def open_onnx(self, source, threads, precision='float'):
        self.precision_options(precision)
        session = open_session(source, threads)
        return lambda inputs: session.run(None, inputs)


ENGINE = DummyDevice()

if OnnxEngine is not None:

    @ENGINES.register_module()
    class DummyEngine(OnnxEngine):
        name = 'dummy'
        device = ENGINE

        def run_onnx(self, model, images, names):
            return open_session(model, 1).run(list(names), {'images': images})
