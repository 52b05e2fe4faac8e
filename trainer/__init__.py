"""Dataset in, published adapter out."""
