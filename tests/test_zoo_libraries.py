"""Cells of the zoo beside what others have published as a library: outputs, final states, and the
gradients that the library's framework derives.
"""

from __future__ import annotations

from typing import Any

import libraries
import numpy as np
import pytest
from conftest import need
from test_zoo import assert_equal_in_both_targets, by_kind, by_torch, differentiated, folded

from lstmgen import Cell, cells
from lstmgen.verification.examination import Examination

LAYERS = libraries.known()
OF_JAX = ("equinox", "flax")


@pytest.fixture(scope="module", autouse=True)
def settings_of_keras(tmp_path_factory):
    """Keras reads its backend when it is imported, and writes its settings to a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_it_is_the_cell_of_a_library(layer: libraries.Layer) -> None:
    need("jax" if layer.library in OF_JAX else "torch")
    need(layer.library)
    cell = cells.get(layer.cell)
    case = Examination(cell, sizes=layer.sizes, T=6, B=3, seeds=1).witnesses[0].case
    for name, mask in layer.only.items():
        case.values["parameter", name] *= mask
    forward = layer.run if layer.whole else folded(cell, layer.run)
    by = by_jax if layer.library in OF_JAX else by_torch
    y, final, gradients = by(cell, forward, case)
    assert all(gradient.any() for gradient in gradients.values())  # it reads all parameters
    assert_equal_in_both_targets(
        layer.cell, case, (y, final, gradients), layer.tolerance, layer.only
    )


def by_jax(cell: Cell, forward: Any, case: Any) -> tuple[Any, Any, Any]:
    """Outputs, final states and gradients, as a forward pass in JAX has them."""
    import jax
    import jax.numpy as jnp

    def run(leaves: Any) -> Any:
        y, state = forward(*by_kind(leaves), case.given)
        return {n: jnp.stack([*a]) for n, a in y.items()}, state

    with jax.enable_x64(True):
        leaves = {e: jnp.asarray(a) for e, a in case.values.items()}
        (y, final), pull = jax.vjp(run, leaves)
        none = {n: jnp.zeros_like(a) for n, a in final.items()}
        (gradients,) = pull((case.dy, none | case.dstate))
    y, final, gradients = jax.tree.map(np.asarray, (y, final, gradients))
    return y, final, {e: gradients[e] for e in differentiated(cell)}
