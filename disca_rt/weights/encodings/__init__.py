"""How a file may write down a weight, one module per way, chosen in `choose.py`."""
