"""The methods: one paper, one folder. Importing this package registers them all."""

from mien.methods import facecycle, landmarks
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
    "config_from",
    "facecycle",
    "landmarks",
    "method_class",
    "method_names",
    "register",
]
