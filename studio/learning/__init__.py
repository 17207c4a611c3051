"""Coefficients learned from data: soups, recycling, LoraHub, AdaMerging, RegMean, and the controls beside them."""
