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
    from ..cache.described import MARKS, brief
    from ..cache.policies import FAMILIES

    for family, rows in FAMILIES.items():
        print(f"{family}:")
        for name, row in rows.items():
            print(f"  {brief(name, row)}")
    print("marks:")
    for mark, meaning in MARKS.items():
        print(f"  {mark} {meaning}")
    print("disca-rt caches NAME tells a method in full, its options and presets")


def _tell(name: str) -> None:
    from ..cache.described import options_in_words, preset_text
    from ..cache.policies import POLICIES, check_method

    check_method(name, "NAME")
    row = POLICIES[name]
    print(f"{name}: {row.about}")
    if row.paper:
        print(f"from {row.paper}")
    for line in options_in_words(row):
        print(f"  {line}")
    for preset, options in row.presets.items():
        steps = f" (for {row.preset_steps[preset]} steps)" if preset in row.preset_steps else ""
        print(f"  preset {name}:{preset}{steps}: {preset_text(options)}")
