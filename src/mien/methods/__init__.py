"""The methods: one paper, one folder. Importing this package registers them all."""

from mien.methods import byol, derl, facecycle, ipgan, landmarks, moco, pcl, simclr, simsiam
from mien.methods.base import (
    FACTORS,
    Batch,
    Codes,
    Edit,
    Method,
    Sampler,
    Update,
    config_from,
    method_class,
    method_names,
    register,
)

__all__ = [
    "FACTORS",
    "Batch",
    "Codes",
    "Edit",
    "Method",
    "Sampler",
    "Update",
    "byol",
    "config_from",
    "derl",
    "facecycle",
    "ipgan",
    "landmarks",
    "method_class",
    "method_names",
    "moco",
    "pcl",
    "register",
    "simclr",
    "simsiam",
]
