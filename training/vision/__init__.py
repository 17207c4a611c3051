"""How assets/vision was made: autoencoder, relation encoder, base editor, LoRWeB and its single-LoRA baselines.

Runs with torch, transformers and safetensors alone; diffusers reads what it writes. See `python -m
training.vision --help`.
"""
