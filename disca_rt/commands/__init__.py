"""The subcommands of `disca-rt`, one file each: `add_parser` declares it, `run` does it."""
