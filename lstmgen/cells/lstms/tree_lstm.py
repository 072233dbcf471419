"""The Tree-LSTM: Tai, Socher & Manning, "Improved semantic representations from tree-structured
long short-term memory networks", ACL 2015 (tai2015improved), the N-ary form with two children.

A step is a node of a tree, and not of a sequence: h and c of both children come in as inputs, the
node's own go out as outputs, and there are no states. Whoever walks the tree calls the step from
the leaves up; T steps are T nodes that do not wait for each other, such as all those of a depth.

Each child has a forget gate of its own, with matrices by slot: U_f12 leads from the second child to
the gate of the first. W_f and b_f are shared by both. A child that is not there has h = c = 0.
The child-sum form, for any number of children in no order, is not this cell. The authors' binary
code has no x at inner nodes, and c = W x without a gate at leaves.
"""

from sympy import Eq

from lstmgen import Cell, biases, inputs, sigmoid, tanh, vectors, weights

x = inputs("x")
h_1, h_2, c_1, c_2 = inputs("h_1 h_2 c_1 c_2", size="H")
i, f_1, f_2, o, u, c, h = vectors("i f_1 f_2 o u c h")
W, U, b = weights("W"), weights("U"), biases("b")

cell = Cell(
    "tree_lstm",
    equations=[
        Eq(i, sigmoid(W.i @ x + U.i1 @ h_1 + U.i2 @ h_2 + b.i)),
        Eq(f_1, sigmoid(W.f @ x + U.f11 @ h_1 + U.f12 @ h_2 + b.f)),
        Eq(f_2, sigmoid(W.f @ x + U.f21 @ h_1 + U.f22 @ h_2 + b.f)),
        Eq(o, sigmoid(W.o @ x + U.o1 @ h_1 + U.o2 @ h_2 + b.o)),
        Eq(u, tanh(W.u @ x + U.u1 @ h_1 + U.u2 @ h_2 + b.u)),
        Eq(c, i * u + f_1 * c_1 + f_2 * c_2),
        Eq(h, o * tanh(c)),
    ],
    output=(h, c),
    title="binary Tree-LSTM",
    source="Tai et al. 2015",
    init={b.f: 1.0},  # open at first, so that early gradients survive
    roles={
        i: "input gate",
        f_1: "forget gate of the first child",
        f_2: "forget gate of the second child",
        o: "output gate",
        u: "candidate",
        c: "cell state",
        h: "hidden state",
    },
)
