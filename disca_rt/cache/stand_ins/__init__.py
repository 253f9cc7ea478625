"""Stand-ins: what they keep of a computation, and the value that they give instead. One a file."""
