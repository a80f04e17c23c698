"""Methods as ONNX files that give what they give in torch."""

from mien.export.onnx import Exported, export

__all__ = ["Exported", "export"]
