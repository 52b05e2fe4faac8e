"""Questions in, result.txt out. Start reading at ``comparison.py``."""
