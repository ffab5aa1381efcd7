"""Dense linear layers in the engines that people use.

An engine is asked by its documented interface, once for each copy of the weights, with
one thread and with the memory of its result in its hands wherever it has a say in it.
What it does once, such as packing weights, is done before and costs it nothing.
"""

import importlib.metadata
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._rival_environments import ENGINES, use

Floats = NDArray[np.float32]
Call = Callable[[], Any]  # runs the layer; what it returns is for `read` alone
Layer = tuple[Call, Callable[[Any], Floats]]  # and how its result is read
Engine = Callable[[Floats, Floats], Callable[[], Layer]]  # weights, tokens; a new copy

SIZES = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes of a weight


def engines() -> Iterator[tuple[str, str, Engine]]:
    """Yield name, precision and way of making of every engine that is installed.

    Yields
    ------
    tuple
        ONNX Runtime has no bfloat16 on processors; NumPy has only single precision.
    """
    yield "NumPy", "float32", numpy_float32
    yield "torch", "float32", torch_float32
    yield "torch", "bfloat16", torch_bfloat16
    yield "torch", "int8", torch_int8("x86")
    yield "torch onednn", "int8", torch_int8("onednn")
    if use(ENGINES):
        yield "OpenVINO", "float32", openvino_float32
        yield "OpenVINO", "bfloat16", openvino_bfloat16
        yield "OpenVINO", "int8", openvino_int8
        yield "ONNX Runtime", "float32", onnxruntime_float32
        yield "ONNX Runtime", "int8", onnxruntime_int8


def versions() -> dict[str, str]:
    """Return the versions of the engines that can be imported."""
    use(ENGINES)
    found = {}
    for name in ("numpy", "torch", "openvino", "onnxruntime"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def bits(x: Floats) -> NDArray[np.uint16]:
    """Return numbers rounded to bfloat16."""
    import torch

    found: NDArray[np.uint16]
    found = torch.from_numpy(x).bfloat16().view(torch.uint16).numpy()
    return found


def numbers(x: NDArray[np.uint16]) -> Floats:
    """Return what numbers of bfloat16 stand for."""
    return (x.astype(np.uint32) << 16).view(np.float32)


# -- NumPy and torch -------------------------------------------------------------------


def numpy_float32(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """A product of OpenBLAS."""
    y = np.empty((len(x), len(weights)), np.float32)

    def make() -> Layer:
        w = weights.copy().T
        return lambda: np.matmul(x, w, out=y), np.asarray

    return make


def torch_float32(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """``torch.nn.functional.linear``."""
    return _torch_linear(weights, x, "float32", lambda y: y.numpy())


def torch_bfloat16(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """The same with weights, tokens and results of bfloat16."""
    return _torch_linear(weights, x, "bfloat16", lambda y: y.float().numpy())


def _torch_linear(
    weights: Floats, x: Floats, dtype: str, read: Callable[[Any], Floats]
) -> Callable[[], Layer]:
    import torch

    tokens = torch.from_numpy(x).to(getattr(torch, dtype))

    def make() -> Layer:
        w = torch.from_numpy(weights.copy()).to(getattr(torch, dtype))
        return lambda: torch.nn.functional.linear(tokens, w), read

    return make


def torch_int8(backend: str) -> Engine:
    """Dynamic quantisation: weights by output, tokens by what is met."""

    def engine(weights: Floats, x: Floats) -> Callable[[], Layer]:
        import torch

        scale = torch.from_numpy(np.abs(weights).max(1) / 127).double()
        zero = torch.zeros(len(weights), dtype=torch.long)
        tokens = torch.from_numpy(x)

        def make() -> Layer:
            before = torch.backends.quantized.engine
            torch.backends.quantized.engine = backend
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # they are deprecated
                    w = torch.quantize_per_channel(
                        torch.from_numpy(weights), scale, zero, 0, torch.qint8
                    )
                packed = torch.ops.quantized.linear_prepack(w, None)
            finally:
                torch.backends.quantized.engine = before
            apply = torch.ops.quantized.linear_dynamic
            return lambda: apply(tokens, packed), lambda y: y.numpy()

        return make

    return engine


# -- OpenVINO --------------------------------------------------------------------------


def openvino_float32(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """A product with constant weights."""
    import openvino as ov
    from openvino import opset13 as op

    def make() -> Layer:
        tokens = op.parameter(x.shape, np.float32)
        y = op.matmul(tokens, op.constant(weights), False, True)
        return _openvino(ov.Model([y], [tokens]), ov.Tensor(x, shared_memory=True))

    return make


def openvino_bfloat16(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """The same with weights, tokens and results of bfloat16."""
    import openvino as ov
    from openvino import opset13 as op

    kind = ov.Type.bf16
    w, given = bits(weights), ov.Tensor(bits(x), x.shape, kind)

    def make() -> Layer:
        tokens = op.parameter(x.shape, kind)
        constant = op.constant(ov.Tensor(w, w.shape, kind))
        y = op.matmul(tokens, constant, False, True)
        run, _ = _openvino(ov.Model([y], [tokens]), given, "bf16")
        return run, lambda y: numbers(y.data.view(np.uint16))

    return make


def openvino_int8(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """Weights of int8 by output, tokens by one scale that is known before.

    Raises
    ------
    RuntimeError
        If the product is not one of int8.
    """
    import openvino as ov
    from openvino import opset13 as op

    w, scale = quantised(weights)
    high = np.abs(x).max()
    ends = op.constant(np.float32(-high * 128 / 127)), op.constant(np.float32(high))

    def make() -> Layer:
        tokens = op.parameter(x.shape, np.float32)
        levels = op.fake_quantize(tokens, *ends, *ends, 256)
        constant = op.convert(op.constant(w), np.float32)
        constant = op.multiply(constant, op.constant(scale[:, None]))
        y = op.matmul(levels, constant, False, True)
        given = ov.Tensor(x, shared_memory=True)
        return _openvino(ov.Model([y], [tokens]), given, "f32", ("i8", "u8"))

    return make


def _openvino(
    model: Any, x: Any, hint: str = "f32", wanted: tuple[str, ...] = ()
) -> Layer:
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    products = [
        str(fact["runtimePrecision"].value)
        for fact in facts
        if str(fact["layerType"].value) in ("FullyConnected", "MatMul")
    ]
    if wanted and not set(products) <= set(wanted):
        raise RuntimeError(f"the product is made with {' and '.join(products)}")
    request = compiled.create_infer_request()
    request.set_input_tensor(x)
    result = request.get_output_tensor()

    def run() -> Any:
        request.infer()
        return result

    return run, lambda y: np.array(y.data)


# -- ONNX Runtime ----------------------------------------------------------------------


def onnxruntime_float32(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """MatMul."""
    from onnx import helper

    return _onnxruntime(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights.T}, x
    )


def onnxruntime_int8(weights: Floats, x: Floats) -> Callable[[], Layer]:
    """DynamicQuantizeLinear and MatMulInteger, which it makes one node of."""
    from onnx import TensorProto, helper

    w, scale = quantised(weights)
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "x_scale", "zero"], {}),
        ("MatMulInteger", ["q", "w", "zero"], ["whole"], {}),
        ("Cast", ["whole"], ["product"], {"to": TensorProto.FLOAT}),
        ("Mul", ["x_scale", "w_scale"], ["scale"], {}),
        ("Mul", ["product", "scale"], ["y"], {}),
    ]
    return _onnxruntime(
        [helper.make_node(*node, **more) for *node, more in nodes],
        {"w": w.T, "w_scale": scale},
        x,
    )


def _onnxruntime(
    nodes: list[Any], constants: dict[str, NDArray[Any]], x: Floats
) -> Callable[[], Layer]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    y = np.empty((len(x), constants["w"].shape[1]), np.float32)
    single = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", single, x.shape)],
        [helper.make_tensor_value_info("y", single, y.shape)],
        [
            numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in constants.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    content = model.SerializeToString()

    def make() -> Layer:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        binding.bind_ortvalue_input("x", value(x))
        binding.bind_ortvalue_output("y", result := value(y))
        run = session.run_with_iobinding
        return lambda: run(binding), lambda _: result.numpy()

    return make


def quantised(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return whole numbers and the scale of each output."""
    scale = np.abs(weights).max(1) / np.float32(127)
    return np.rint(weights / scale[:, None]).astype(np.int8), scale
