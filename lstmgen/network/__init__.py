"""Networks: layers of any cell, wired together. Cells know nothing of them."""
