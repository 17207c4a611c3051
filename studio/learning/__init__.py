"""Coefficients learned from data: soups, recycling, LoraHub, AdaMerging, RegMean, and the controls beside them."""

from typing import Final

LEARNERS: Final = ("soup", "recycle", "lorahub", "adamerge")
"""The learners by id, in the order in which they are offered; each is `LEARNER` in the file of its name."""
