"""Visual analogies: a procedural world with exact answers, the LoRA weight basis, and the sampler that shows b'."""
