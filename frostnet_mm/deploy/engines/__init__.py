"""Stand-in for the registry of engines."""


def engine_names() -> tuple[str, ...]:
    """All engines."""
    return ('onnxruntime', 'openvino', 'executorch', 'inductor')
