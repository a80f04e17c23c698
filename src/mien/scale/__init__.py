"""Codes of any number of faces: shards, resuming, clusters."""

from mien.scale.files import Written, embed_files

__all__ = ["Written", "embed_files"]
