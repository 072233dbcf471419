"""The quasi-recurrent network: Bradbury, Merity, Xiong & Socher, "Quasi-recurrent neural networks",
ICLR 2017 (bradbury2017quasi), with convolutions of width 2 and fo-pooling.

What an LSTM reads of its output before, this reads of its input before, x_before: the convolution
of the paper, as a recurrence. So all products of a sequence are one, and the loop over its steps
is elementwise. W is of this input, V of the one before. The paper writes no biases; the authors'
library has them.

Here f = 1 keeps the state, as in the paper. The authors' library has it the other way round: its
forget gate writes. It also cuts the gradient at the input that it keeps between two batches.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, states, tanh, vectors, weights

x = inputs("x")
c = states("c")
x_before = states("x_before", size="D")
z, f, o, h = vectors("z f o h")
W, V, b = weights("W"), weights("V"), biases("b")

cell = Cell(
    "qrnn",
    equations=[
        Eq(z, tanh(W.z @ x + V.z @ x_before + b.z)),
        Eq(f, sigmoid(W.f @ x + V.f @ x_before + b.f)),
        Eq(o, sigmoid(W.o @ x + V.o @ x_before + b.o)),
        Eq(c.next, f * c + (1 - f) * z),
        Eq(h, o * c.next),
        Eq(x_before.next, x),
    ],
    output=h,
    title="quasi-recurrent network, with a window of two inputs",
    source="Bradbury et al. 2017",
    roles={
        z: "candidate",
        f: "forget gate",
        o: "output gate",
        c: "cell state",
        x_before: "the input before",
    },
)
