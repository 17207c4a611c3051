"""From named tensors to modules: pairs, products, fused and expert layouts, and one name for each module."""
