"""Training of the bundled tiny base model, ``models/asktwice-tiny``.

``corpus`` writes the text (seeded, nothing is downloaded), ``python -m trainer.pretrain`` trains the tokenizer and the
model on it, ``python -m trainer.pretrain.evaluate`` measures the result in the 4-bit form in which it is served.
"""
