"""Error sheets of `eval`."""

from __future__ import annotations

import numpy as np

from mtl_perception.labels import STREET
from mtl_perception.visualization.error_sheet import DepthErrors, LabelErrors, error_scale, error_sheet


class TestErrorSheet:
    def sheet(self, **changes) -> np.ndarray:
        image = np.full((100, 280, 3), 128, np.uint8)
        truth = np.zeros((100, 280), np.uint8)
        truth[:, :70] = 255
        labels = truth.copy()
        labels[:, 140:] = 3
        meters = np.full((100, 280), 10, np.float32)
        guess = meters * np.linspace(0.5, 1.5, 280, dtype=np.float32)
        counted = np.ones(meters.shape, bool)
        counted[:, :70] = False
        parts = {"labels": LabelErrors(STREET, truth, labels), "depth": DepthErrors(meters, guess, counted, 80.0)}
        return error_sheet(image, ("title",), **{**parts, **changes})

    def test_error_colors_are_at_the_wrong_pixels(self):
        """Third column: unlabeled dark, correct gray, wrong red; below, ignored dark, correct light gray, too far red."""
        sheet = self.sheet()
        assert sheet.shape[1] == 3 * 560 + 4 * 12
        first_row = sheet.shape[0] - 12 - 2 * (12 + 200) - 26
        labels = sheet[first_row : first_row + 200, 2 * 572 + 12 :][100]
        assert labels[70].max() < 30
        assert np.ptp(labels[200]) < 10 and labels[200].min() > 60
        assert labels[400][0] > 150 and labels[400][1:].max() < 80
        depth = sheet[-24 - 200 : -24, 2 * 572 + 12 :][100]
        assert depth[70].max() < 40
        assert np.ptp(depth[280]) < 15 and depth[280].min() > 220
        assert depth[550][0] > 200 and depth[550][1:].max() < 60
        assert depth[150][2] > depth[150][0]

    def test_missing_labels_or_depth_have_no_row(self):
        whole = self.sheet().shape[0]
        assert self.sheet(labels=None).shape[0] < whole - 200
        assert self.sheet(depth=None).shape[0] < whole - 200

    def test_a_tall_image_is_fitted_into_the_sheet(self):
        assert error_sheet(np.zeros((640, 100, 3), np.uint8), ("a",)).shape == (26 + 480 + 12 + 12, 1728, 3)

    def test_the_color_scale_runs_from_blue_to_red(self):
        scale = error_scale(320)
        assert scale.shape == (52, 320, 3)
        assert scale[15, 20][2] > 200 and scale[15, 300][0] > 200
