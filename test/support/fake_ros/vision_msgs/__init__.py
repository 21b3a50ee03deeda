"""Fake of vision_msgs for processes of tests, where the package is not installed."""
