"""IP-GAN (Bao et al., CVPR 2018): ``networks``, ``losses``, ``method``, read in this order."""

from mien.methods.ipgan.method import IPGAN

__all__ = ["IPGAN"]
