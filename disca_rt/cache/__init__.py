"""Cache policies: what happens between `embed` and `head` of each step. One file each."""
