"""ONNX Runtime: its LSTM and GRU operators, with all inputs and outputs bound beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lstmgen.benchmark.contenders import Contender, Prepared, library
from lstmgen.benchmark.problem import TRAINING, Problem, Values
from lstmgen.conventions import reference_of

_OPSET = 22
# By cell: the operator, its attributes, and its gates in ONNX's order: of W, of R, and of B's two
# halves; "" stands for zeros, since ONNX has both biases everywhere.
_OPERATORS: dict[str, tuple[str, dict[str, int], str, str, list[str]]] = {
    "lstm": ("LSTM", {}, "W_i W_o W_f W_g", "U_i U_o U_f U_g",
             ["b_i", "b_o", "b_f", "b_g", "", "", "", ""]),
    "gru": ("GRU", {"linear_before_reset": 1}, "W_z W_r W_n", "U_z U_r U_n",
            ["b_z", "b_r", "b_n", "", "", "b_m"]),
}  # fmt: skip


class OnnxRuntime(Contender):
    key, name, library = "onnx", "ONNX Runtime", "onnxruntime"

    def fits(self, problem: Problem) -> bool:
        known = reference_of(problem.cell, list(_OPERATORS))
        return known is not None and problem.work != TRAINING and problem.dtype == "float32"

    def prepare(self, problem: Problem) -> Prepared:
        known = reference_of(problem.cell, list(_OPERATORS))
        assert known is not None, "fits() comes first"
        session = _session(_model(known, problem), problem.threads)
        (x,) = problem.inputs.values()
        given = {"X": x} | {f"initial_{n}": a[None] for n, a in problem.state.items()}
        steps, rows, hidden = problem.steps, problem.sizes["B"], problem.sizes["H"]
        shapes = {"Y": (steps, 1, rows, hidden)}
        shapes |= {f"Y_{n}": (1, rows, hidden) for n in problem.state}
        call, out = _bound(session, given, shapes)

        def values(_: Any) -> Values:
            final = {n: out[f"Y_{n}"].numpy()[0] for n in problem.state}
            return problem.results(out["Y"].numpy()[:, 0], final)

        return Prepared(call, values)


class OnnxEmpty(OnnxRuntime):
    """What any call costs: a model that hands one number on."""

    key, name, checked = "onnx-empty", "ONNX Runtime, empty call", False

    def prepare(self, problem: Problem) -> Prepared:
        helper = library("onnx.helper")
        one = [
            helper.make_tensor_value_info(name, 1, [1])
            for name in ("X", "Y")  # 1: float
        ]
        node = helper.make_node("Identity", ["X"], ["Y"])
        graph = helper.make_graph([node], "empty", one[:1], one[1:])
        session = _session(_serialised(graph), problem.threads)
        call, _ = _bound(session, {"X": np.zeros(1, np.float32)}, {"Y": (1,)})
        return Prepared(call, lambda _: {})


def _model(known: str, problem: Problem) -> bytes:
    helper, numpy_helper = library("onnx.helper"), library("onnx.numpy_helper")
    kind, attributes, w, r, b = _OPERATORS[known]
    params, hidden = problem.params, problem.sizes["H"]

    def stacked(names: list[str]) -> Any:
        zeros = np.zeros(hidden, np.float32)
        return np.concatenate([params[n] if n else zeros for n in names])[None]

    weights = {"W": stacked(w.split()), "R": stacked(r.split()), "B": stacked(b)}
    states = list(problem.state)
    inputs = ["X", "W", "R", "B", "", *(f"initial_{n}" for n in states)]
    outputs = ["Y", *(f"Y_{n}" for n in states)]
    node = helper.make_node(kind, inputs, outputs, hidden_size=hidden, **attributes)
    rows = problem.sizes["B"]
    graph = helper.make_graph(
        [node],
        known,
        [
            helper.make_tensor_value_info("X", 1, [problem.steps, rows, problem.sizes["D"]]),
            *(helper.make_tensor_value_info(f"initial_{n}", 1, [1, rows, hidden]) for n in states),
        ],
        [
            helper.make_tensor_value_info("Y", 1, [problem.steps, 1, rows, hidden]),
            *(helper.make_tensor_value_info(f"Y_{n}", 1, [1, rows, hidden]) for n in states),
        ],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    return _serialised(graph)


def _serialised(graph: Any) -> bytes:
    helper = library("onnx.helper")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 10  # what that opset came with; runtimes lag behind the newest
    return bytes(model.SerializeToString())


def _session(model: bytes, threads: int) -> Any:
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(
    session: Any, given: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> tuple[Callable[[], None], dict[str, Any]]:
    """A call on arrays that are where the runtime wants them already, and its outputs."""
    value = library("onnxruntime").OrtValue
    binding = session.io_binding()
    kept = {n: value.ortvalue_from_numpy(np.ascontiguousarray(a)) for n, a in given.items()}
    for name, array in kept.items():
        binding.bind_ortvalue_input(name, array)
    out = {n: value.ortvalue_from_shape_and_type(shape, np.float32) for n, shape in shapes.items()}
    for name, array in out.items():
        binding.bind_ortvalue_output(name, array)
    run = session.run_with_iobinding

    def call() -> None:
        run(binding)

    call.alive = (session, kept, out)  # type: ignore[attr-defined]  # the binding keeps nothing
    return call, out
