"""Hints of the modules of PyTorch can be followed to the letter."""

from __future__ import annotations

import re

import pytest
from conftest import need


def test_a_hint_about_number_types_can_be_followed():
    need("torch")
    import torch

    from lstmgen.torch import Recurrent

    module = Recurrent("rnn", 2, 3)
    x = torch.zeros(4, 1, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"x is torch\.float64") as caught:
        module(x)
    hints = re.search(r"hint: (x\.to\(.*?\)), or (module\.to\(.*?\))$", str(caught.value))
    assert hints
    known = {"x": x, "module": module, "torch": torch}
    assert eval(hints[1], known).dtype == torch.float32
    assert next(eval(hints[2], known).parameters()).dtype == torch.float64
