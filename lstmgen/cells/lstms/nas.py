"""The cell that was found by search: Zoph & Le, "Neural architecture search with reinforcement
learning", ICLR 2017 (zoph2017neural), the cell of its experiments with the Penn Treebank, as in
TensorFlow's ``NASCell``.

Eight leaves, l_0 to l_7, each combine a view of the input with one of the hidden state, and are
combined in pairs. One leaf, l_3, multiplies where the others add: the products with x and with h
cannot be made one product with both side by side. There are no biases, as in ``NASCell`` by
default.
"""

from sympy import Eq

from lstmgen import Cell, inputs, relu, sigmoid, states, tanh, vectors, weights

x = inputs("x")
h, c = states("h c")
l_0, l_1, l_2, l_3, l_4, l_5, l_6, l_7 = vectors("l_0 l_1 l_2 l_3 l_4 l_5 l_6 l_7")
m_0, m_1, m_2, m_3, p, q = vectors("m_0 m_1 m_2 m_3 p q")
W, U = weights("W"), weights("U")

cell = Cell(
    "nas",
    equations=[
        Eq(l_0, sigmoid(W[0] @ x + U[0] @ h)),
        Eq(l_1, relu(W[1] @ x + U[1] @ h)),
        Eq(l_2, sigmoid(W[2] @ x + U[2] @ h)),
        Eq(l_3, relu((W[3] @ x) * (U[3] @ h))),
        Eq(l_4, tanh(W[4] @ x + U[4] @ h)),
        Eq(l_5, sigmoid(W[5] @ x + U[5] @ h)),
        Eq(l_6, tanh(W[6] @ x + U[6] @ h)),
        Eq(l_7, sigmoid(W[7] @ x + U[7] @ h)),
        Eq(m_0, tanh(l_0 * l_1)),
        Eq(m_1, tanh(l_2 + l_3)),
        Eq(m_2, tanh(l_4 * l_5)),
        Eq(m_3, sigmoid(l_6 + l_7)),
        Eq(p, tanh(m_0 + c)),
        Eq(q, tanh(m_2 + m_3)),
        Eq(c.next, p * m_1),
        Eq(h.next, tanh(c.next * q)),
    ],
    output=h,
    title="cell found by neural architecture search",
    source="Zoph & Le 2017",
    roles={c: "cell state", h: "hidden state"},
)
