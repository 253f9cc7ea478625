"""Rules: when to compute, when to keep, and when something stands in. One file each."""
