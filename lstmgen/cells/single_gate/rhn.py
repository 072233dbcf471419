"""The recurrent highway network: Zilly, Srivastava, Koutník & Schmidhuber, "Recurrent highway
networks", ICML 2017 (zilly2017recurrent). Each step is a highway network of several layers, of
which the first alone reads the input; the output of the last is the state.

There are 3 layers here; to have another depth, copy the file and change DEPTH. The paper's best
have 10. Transform and carry gate are coupled, c = 1 - t, as in its experiments. The biases of t
start at -2, so that at first the layers mostly carry on what they read.

The paper's dropout, one mask for all steps and layers, is left out.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

DEPTH = 3

x = inputs("x")
s = states("s")
W, R, b = weights("W"), weights("R"), biases("b")

layers, starts = [], {}
roles = {s: "hidden state"}
below = s
for k in range(1, DEPTH + 1):
    h, t = vectors(f"h_{k} t_{k}")
    above = vectors(f"s_{k}") if k < DEPTH else s.next
    seen = (W.h @ x, W.t @ x) if k == 1 else (0, 0)
    layers += [
        Eq(h, tanh(seen[0] + R[f"h{k}"] @ below + b[f"h{k}"])),
        Eq(t, sigmoid(seen[1] + R[f"t{k}"] @ below + b[f"t{k}"])),
        Eq(above, h * t + below * (1 - t)),
    ]
    starts[b[f"t{k}"]] = -2.0
    roles |= {h: "candidate", t: "transform gate"}
    below = above

cell = Cell(
    "rhn",
    equations=layers,
    output=s,
    title="recurrent highway network of depth 3",
    source="Zilly et al. 2017",
    init=starts,
    roles=roles,
)
