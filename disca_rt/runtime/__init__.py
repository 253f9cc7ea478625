"""The runtime that other programs embed: see `runtime.Runtime`."""
