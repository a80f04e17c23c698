"""Expression transfer by style codes: ``networks``, ``inversion``, ``masks``, ``method``, ``video``."""

from mien.methods.styletransfer.method import StyleTransfer

__all__ = ["StyleTransfer"]
