"""PCL (Liu et al., CVPR 2023): ``networks``, ``losses``, ``method``, read in this order."""

from mien.methods.pcl.method import PCL

__all__ = ["PCL"]
