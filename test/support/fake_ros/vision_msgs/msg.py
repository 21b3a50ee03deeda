"""LabelInfo and VisionClass with the fields of vision_msgs (ros2 branch, commit e77fa2d), transported as a DiagnosticArray.

A message without generated type support cannot be published. Each class is a status, and the threshold is the last one.
"""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus


class VisionClass:
    def __init__(self, class_id: int = 0, class_name: str = "") -> None:
        if not 0 <= class_id < 2**16:
            raise ValueError(f"class_id {class_id} is not a uint16")
        self.class_id, self.class_name = class_id, class_name


class LabelInfo(DiagnosticArray):
    """The node sets the header, class_map and threshold; receivers get a DiagnosticArray, which `of` converts."""

    @classmethod
    def of(cls, message: DiagnosticArray) -> LabelInfo:
        info = cls(header=message.header)
        info.status = message.status
        return info

    @property
    def class_map(self) -> list[VisionClass]:
        return [VisionClass(int(status.message), status.name) for status in self.status if status.hardware_id == "class"]

    @class_map.setter
    def class_map(self, classes: list[VisionClass]) -> None:
        others = [status for status in self.status if status.hardware_id != "class"]
        found = [DiagnosticStatus(name=c.class_name, message=str(c.class_id), hardware_id="class") for c in classes]
        self.status = found + others

    @property
    def threshold(self) -> float:
        return next((float(status.message) for status in self.status if status.hardware_id == "threshold"), 0.0)

    @threshold.setter
    def threshold(self, value: float) -> None:
        others = [status for status in self.status if status.hardware_id != "threshold"]
        self.status = [*others, DiagnosticStatus(message=repr(float(value)), hardware_id="threshold")]


# What rclpy's conversion checks.
LabelInfo.__name__, LabelInfo.__module__ = DiagnosticArray.__name__, DiagnosticArray.__module__
