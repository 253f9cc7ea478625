"""Caching over steps: a policy is a rule (when), sites (where) and stand-ins (what instead)."""
