"""`disca-rt caches`: the cache methods there are, and the options and presets of one."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="list the cache methods, or the options and presets of one",
        description="Every method is a --policy of generate, bench, profile and flops: NAME, "
        "NAME:preset or NAME:option=value,...; A+B is A's decision with B's stand-in.",
    )
    parser.add_argument("name", nargs="?", help="a method; default: all of them")


def run(args: argparse.Namespace) -> None:
    if args.name is None:
        _list()
    else:
        _tell(args.name)


def _list() -> None:
    from ..cache.policies import FAMILIES

    for family, rows in FAMILIES.items():
        print(f"{family}:")
        for name, row in rows.items():
            first, _, _ = row.about.partition(". ")
            print(f"  {name:<18} {first.rstrip('.')}")
    print("disca-rt caches NAME tells a method's options and presets")


def _tell(name: str) -> None:
    from ..cache.described import options_of, preset_text
    from ..cache.policies import POLICIES

    if name not in POLICIES:
        raise ValueError(f"a method must be one of {sorted(POLICIES)}, got {name!r}")
    row = POLICIES[name]
    print(f"{name}: {row.about}")
    if row.paper:
        print(f"from {row.paper}")
    for option in options_of(row):
        default = "" if option.default is None else f" (default {option.default})"
        print(f"  {option.name}: {option.kind}{default}")
    for preset, options in row.presets.items():
        print(f"  preset {name}:{preset}: {preset_text(options)}")
