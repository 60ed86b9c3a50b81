"""Amounts as Kubernetes writes them."""

from fractions import Fraction
from typing import Final

_UNITS: Final = {
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
}


def amount(text: object) -> Fraction:
    """Read "500m", "4Gi" or 2."""
    written = str(text)
    number = written.rstrip("".join({letter for unit in _UNITS for letter in unit}))
    return Fraction(number) * _UNITS[written[len(number) :]]
