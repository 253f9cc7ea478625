"""Simulation of sequence parallelism: traffic and time of N ranks, before anyone has them."""
