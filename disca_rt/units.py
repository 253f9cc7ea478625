"""Texts of bytes, times and rates for people, each in the unit that makes it short."""


def byte_text(count: float, digits: int = 1) -> str:
    """Bytes in decimal units, as a card's label has them: "26.3 GB", "400.0 kB", "12 B"."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:,.{digits}f} {prefix}B"
    return f"{count:.0f} B"


def time_text(seconds: float) -> str:
    """Seconds as milliseconds or, below one, as microseconds: "2,000.0 ms", "12.5 µs"."""
    return f"{seconds * 1e3:,.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.1f} µs"


def time_unit(seconds: float) -> tuple[str, float]:
    """Unit in which a time is a short number, and how many of it a second has."""
    return ("s", 1.0) if seconds >= 1 else ("ms", 1e3)


def rate_text(rate: float, unit: str) -> str:
    """Rate in `unit` with three digits and G or, for FLOP/s from 10¹², T: "760 TFLOP/s"."""
    scale, prefix = (1e12, "T") if rate >= 1e12 and unit == "FLOP/s" else (1e9, "G")
    digits = 0 if rate >= 100 * scale else 1 if rate >= 10 * scale else 2
    return f"{rate / scale:,.{digits}f} {prefix}{unit}"
