"""Stands in for the C++ extension `_native` where it is not built, and says how to build it.

Python takes the extension of that name before this file, and this file where there is none, or only
another Python's. One process alone needs neither.
"""

raise ImportError(
    "several ranks need the C++ extension disca_rt.parallel._native, which is not built for this "
    "Python: pip install --no-build-isolation . in the source folder (make does it too)"
)
