"""Files that hold tensors, whoever named them: folders, zips, safetensors, GGUF, Hub repositories, LoRWeB bases."""
