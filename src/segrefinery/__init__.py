"""SegRefinery."""
