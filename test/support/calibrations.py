"""Calibrations of test cameras: lenses, and the matrices of an image of 1242 x 375 pixels."""

from __future__ import annotations

LENSES = {
    "none": ("", ()),
    "plumb_bob 4": ("plumb_bob", (-0.28, 0.07, 0.001, -0.0005)),
    "plumb_bob 5": ("plumb_bob", (-0.37, 0.2, 0.0003, 0.0007, -0.06)),
    "rational 8": ("rational_polynomial", (8.0, -3.0, 0.0002, -0.0001, 1.0, 8.2, -1.5, 0.5)),
    "equidistant": ("equidistant", (0.08, -0.03, 0.01, -0.002)),
    "equidistant, ideal": ("equidistant", (0.0, 0.0, 0.0, 0.0)),
}
K = (721.5, 0.0, 609.5, 0.0, 722.5, 172.8, 0.0, 0.0, 1.0)
P = (700.0, 0.0, 600.0, 45.0, 0.0, 701.0, 170.0, -1.1, 0.0, 0.0, 1.0, 0.005)
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
D = (-0.37, 0.2, 0.0003, 0.0007, -0.06)
