"""Whole networks, dense, in the engines that people use.

An engine gets a network that maps one tensor to one, an input and some more like it
for those that calibrate, and a number of threads. What it does once, such as choosing
kernels and quantising, is done before and costs it nothing.
"""

import copy
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks._rival_environments import ENGINES, use

Tensor = torch.Tensor
Run = Callable[[], Any]


class Job(NamedTuple):
    """What an engine is asked to do.

    Attributes
    ----------
    model : Module
        In evaluation mode; not changed.
    x : tensor
        The input of all calls.
    samples : sequence of tensor
        More of the same shape, to calibrate with.
    threads : int
        How many it may use.
    """

    model: nn.Module
    x: Tensor
    samples: Sequence[Tensor]
    threads: int


class Engine(NamedTuple):
    """A network that is ready.

    Attributes
    ----------
    run : callable
        Makes a call; what it returns is for `read` alone.
    read : callable
        Returns the result as a tensor of single precision.
    """

    run: Run
    read: Callable[[Any], Tensor]


def engines(job: Job) -> Iterator[tuple[str, Callable[[Job], Engine]]]:
    """Yield name and way of making of every engine that is installed.

    Parameters
    ----------
    job : Job
        What is layers of linear maps alone is not asked for what only convolutions
        have, and the other way round.

    Yields
    ------
    tuple
        The name ends with the precision of products.
    """
    images = job.x.ndim == 4
    yield "torch float32", torch_float32
    yield "torch bfloat16", torch_bfloat16
    if images:
        yield "torch, channels last, float32", channels_last(torch_float32)
        yield "torch, channels last, bfloat16", channels_last(torch_bfloat16)
        yield "torch, frozen script, float32", torch_script
    else:
        yield "torch int8", torch_int8("x86")
        yield "torch, onednn, int8", torch_int8("onednn")
    if use(ENGINES):
        yield "OpenVINO float32", openvino("f32")
        yield "OpenVINO bfloat16", openvino("bf16")
        if importlib.util.find_spec("nncf"):
            yield "OpenVINO int8", openvino("f32", quantised=True)
        yield "ONNX Runtime float32", onnxruntime(None)
        static = onnxruntime(static_int8) if images else onnxruntime(dynamic_int8)
        yield "ONNX Runtime int8", static


@contextmanager
def hushed() -> Iterator[None]:
    """Keep to themselves what exporters and quantisers tell of their own doing."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def torch_float32(job: Job) -> Engine:
    """The network as it is."""
    return Engine(lambda: job.model(job.x), Tensor.float)


def torch_bfloat16(job: Job) -> Engine:
    """The network and its input in bfloat16."""
    half = copy.deepcopy(job.model).bfloat16()
    x = job.x.bfloat16() if job.x.is_floating_point() else job.x
    return Engine(lambda: half(x), Tensor.float)


def channels_last(make: Callable[[Job], Engine]) -> Callable[[Job], Engine]:
    """Return an engine of torch for images with channels last in memory."""

    def engine(job: Job) -> Engine:
        last = torch.channels_last
        model = copy.deepcopy(job.model).to(memory_format=last)
        return make(job._replace(model=model, x=job.x.contiguous(memory_format=last)))

    return engine


def torch_script(job: Job) -> Engine:
    """A trace that torch has optimised for inference, batch norms folded."""
    traced = torch.jit.trace(job.model, (job.x,))
    model = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return Engine(lambda: model(job.x), Tensor.float)


def torch_int8(backend: str) -> Callable[[Job], Engine]:
    """Linear layers dynamically quantised: weights by output, tokens by what is met."""

    def engine(job: Job) -> Engine:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = backend
        try:
            model = quantize_dynamic(
                job.model, {nn.Linear: per_channel_dynamic_qconfig}, torch.qint8
            )
        finally:
            torch.backends.quantized.engine = before
        return Engine(lambda: model(job.x), Tensor.float)

    return engine


def openvino(hint: str, quantised: bool = False) -> Callable[[Job], Engine]:
    """Return OpenVINO at a precision, or quantised after training by NNCF."""

    def engine(job: Job) -> Engine:
        import openvino as ov

        try:
            model = ov.convert_model(job.model, example_input=job.x)
        except Exception:  # what its tracing cannot follow torch's own may
            model = ov.convert_model(torch.export.export(job.model, (job.x,)))
        (port,) = model.inputs
        port.get_node().set_partial_shape(ov.PartialShape(job.x.shape))
        model.validate_nodes_and_infer_types()
        if quantised:
            import nncf

            kind = None if job.x.ndim == 4 else nncf.ModelType.TRANSFORMER
            arrays = [x.numpy() for x in job.samples]
            model = nncf.quantize(model, nncf.Dataset(arrays), model_type=kind)
        settings = {
            "INFERENCE_NUM_THREADS": job.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = ov.Core().compile_model(model, "CPU", settings)
        if quantised:
            _check_int8(compiled)
        request = compiled.create_infer_request()
        given = np.ascontiguousarray(job.x.numpy())
        request.set_input_tensor(ov.Tensor(given, shared_memory=True))
        result = request.get_output_tensor()

        def run() -> Any:
            request.infer()
            return given, result  # the first is lent, and is not to be forgotten

        return Engine(run, lambda pair: torch.from_numpy(np.array(pair[1].data)))

    return engine


def _check_int8(compiled: Any) -> None:
    """Refuse what says int8 and multiplies something else."""
    found: dict[bool, int] = {True: 0, False: 0}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if str(facts["layerType"].value) in ("FullyConnected", "Convolution"):
            found["8" in str(facts["runtimePrecision"].value)] += 1
    if found[False] > found[True]:
        raise RuntimeError(
            f"{found[False]} of {sum(found.values())} layers are not of int8"
        )


def onnxruntime(
    quantise: Callable[[Path, Path, Job], None] | None,
) -> Callable[[Job], Engine]:
    """Return ONNX Runtime, on a network that may be quantised."""

    def engine(job: Job) -> Engine:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            torch.onnx.export(
                job.model, (job.x,), file, input_names=["x"], verbose=False
            )
            if quantise is not None:
                quantise(file, file := Path(folder) / "int8.onnx", job)
            session = ort.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        binding = session.io_binding()
        value = ort.OrtValue.ortvalue_from_numpy
        binding.bind_ortvalue_input("x", value(job.x.numpy()))
        (output,) = session.get_outputs()
        y = value(np.empty(output.shape, np.float32))
        binding.bind_ortvalue_output(output.name, y)
        run = session.run_with_iobinding
        return Engine(lambda: run(binding), lambda _: torch.from_numpy(y.numpy()))

    return engine


def dynamic_int8(file: Path, to: Path, job: Job) -> None:
    """Quantise linear layers, tokens by what is met."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(file, to, weight_type=QuantType.QInt8, per_channel=True)


def static_int8(file: Path, to: Path, job: Job) -> None:
    """Quantise all, by what the samples show."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        waiting = iter([{"x": x.numpy()} for x in job.samples])

        def get_next(self) -> Any:
            return next(self.waiting, None)

    ready = file.with_stem("ready")
    quant_pre_process(file, ready)
    quantize_static(
        ready,
        to,
        Reader(),
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
