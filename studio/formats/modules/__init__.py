"""What dialects and writers share: from named tensors to modules (pairs, products, fused layers, experts), names."""
