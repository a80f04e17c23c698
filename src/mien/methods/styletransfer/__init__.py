"""Expression transfer by style codes (Yang & Lim, 2019).

Read ``networks``, ``inversion``, ``masks``, ``method``, ``video`` in this order.
"""

from mien.methods.styletransfer.method import StyleTransfer

__all__ = ["StyleTransfer"]
