"""Embedded model: a toy world of procedurally drawn clips, its codec and its judge."""
