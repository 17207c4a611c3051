"""Readers: one file a way of naming an adapter's tensors, each with `sniff(bundle)` and `read(bundle)`."""
