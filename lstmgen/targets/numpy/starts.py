"""How parameters start in NumPy: the ways of ``language.initial``, a few lines each.

``key``, ``shape`` and the ``numbers`` of the start are given; what is returned is in double
precision.
"""

from __future__ import annotations

_ALONG = "np.broadcast_to({}, shape)"

STARTS: dict[str, list[str]] = {
    "zeros": ["return np.zeros(shape)"],
    "ones": ["return np.ones(shape)"],
    "uniform": ["return _uniform(key, shape, *numbers)"],
    "normal": ["return numbers[0] * _normal(key, shape)"],
    "glorot": [
        "limit = np.sqrt(6.0 / (shape[-2] + shape[-1]))",
        "return _uniform(key, shape, -limit, limit)",
    ],
    "lecun": [
        "limit = np.sqrt(3.0 / shape[-1])",
        "return _uniform(key, shape, -limit, limit)",
    ],
    "he": [
        "limit = np.sqrt(6.0 / shape[-1])",
        "return _uniform(key, shape, -limit, limit)",
    ],
    "pytorch": [
        "limit = numbers[0] / np.sqrt(shape[-2] if len(shape) > 1 else shape[-1])",
        "return _uniform(key, shape, -limit, limit)",
    ],
    "orthogonal": [
        "tall = shape[-2] >= shape[-1]",
        "q, r = np.linalg.qr(_normal(key, (*shape[:-2], max(shape[-2:]), min(shape[-2:]))))",
        "q *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., np.newaxis, :]  # and so unique",
        "return numbers[0] * (q if tall else q.swapaxes(-2, -1))",
    ],
    "identity": ["return " + _ALONG.format("numbers[0] * np.eye(*shape[-2:])")],
    "linspace": ["return " + _ALONG.format("np.linspace(*numbers, shape[-1])")],
    "power_law": [
        "first, last, power = numbers",
        "t = np.linspace(0.0, 1.0, shape[-1]) ** power",
        "return " + _ALONG.format("first + (last - first) * t"),
    ],
    "log_range": ["return " + _ALONG.format("np.log(np.arange(1.0, shape[-1] + 1))")],
    "hippo": [
        "n, k = np.ogrid[: shape[-2], : shape[-1]]",
        "below = -np.sqrt((2.0 * n + 1) * (2.0 * k + 1))",
        "made = np.where(n > k, below, np.where(n == k, -(n + 1.0), 0.0))",
        "return " + _ALONG.format("made"),
    ],
    "hippo_input": ["return " + _ALONG.format("np.sqrt(2.0 * np.arange(shape[-1]) + 1)")],
    "log_uniform": ["return np.exp(_uniform(key, shape, *np.log(numbers)))"],
    "log_of_uniform": ["return np.log(_uniform(key, shape, *numbers))"],
    "chrono": ["return np.log(_uniform(key, shape, 1.0, numbers[0] - 1.0))"],
    "ring": ["return np.log(-np.log(_uniform(key, shape, *np.square(numbers))) / 2.0)"],
    "step_size": [
        "made = np.exp(_uniform(key, shape, *np.log(numbers)))",
        "return made + np.log(-np.expm1(-made))",
    ],
    "decay": [
        "low, high, power = numbers",
        "root = _uniform(key, shape, low, high) ** (1.0 / power)",
        "return np.log(root) - np.log1p(-root)",
    ],
}
