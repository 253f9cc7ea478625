"""DisCa on HunyuanVideo, from published checkpoint to video.

Importing this package is cheap: it loads neither PyTorch nor any submodule.
"""

__version__ = "0.1.0"
