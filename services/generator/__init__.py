"""Prompt in, answer out: one 4-bit base, loaded once, and any number of adapters chosen per request.

Read in this order: ``asking.py`` (what becomes of a question), ``adapters.py`` (which adapter answers),
``engine.py`` (the one thread that owns the model), ``model.py`` (how the base is loaded), ``app.py`` (the routes).
"""
