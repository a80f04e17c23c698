"""DeRL: expression recognition from what de-expression leaves behind."""

from mien.methods.derl.method import DeRL

__all__ = ["DeRL"]
