"""Measure which latents a beta-VAE keeps, in which order, at what price, and how that compares with PCA.

Everything that users and plugins need is exported here, and loaded on first use: importing collapsebench imports
neither torch nor pandas. `__init__.pyi` beside this file lists the names and where they live.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
