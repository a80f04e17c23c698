"""FaceCycle (Chang et al., ICCV 2021): ``networks``, ``losses``, ``method``, read in this order."""

from mien.methods.facecycle.method import FaceCycle

__all__ = ["FaceCycle"]
