"""PairedCycleGAN (Chang et al., CVPR 2018): ``networks``, ``losses``, ``method``, in this order."""

from mien.methods.pairedcyclegan.method import PairedCycleGAN

__all__ = ["PairedCycleGAN"]
