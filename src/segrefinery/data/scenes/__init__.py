"""Procedural street scenes with exact masks, in four looks: the data set that is always at hand."""

from __future__ import annotations

from .dataset import SceneDataset

__all__ = ["SceneDataset"]
