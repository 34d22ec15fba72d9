"""How long a request is in service: ``50ms``, ``20-80ms`` (uniform) or ``lognormal:50ms:0.5`` (median, sigma)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from statistics import NormalDist

Latency = Callable[[float], float]  # a draw, uniform in (0, 1) -> seconds

NUMBER = r"(\d+(?:\.\d+)?)"
CONSTANT = re.compile(rf"{NUMBER}(ms|s)|0")
UNIFORM = re.compile(rf"{NUMBER}(ms|s)?-{NUMBER}(ms|s)")
LOGNORMAL = re.compile(rf"lognormal:{NUMBER}(ms|s):{NUMBER}")
UNITS = {"ms": 1e-3, "s": 1.0}


def parse_latency(text: str) -> Latency:
    """Raises ValueError, in one line, where the text is none of the three forms."""
    if match := CONSTANT.fullmatch(text):
        seconds = float(match[1]) * UNITS[match[2]] if match[1] else 0.0
        return lambda u: seconds
    if match := UNIFORM.fullmatch(text):
        low, high = float(match[1]) * UNITS[match[2] or match[4]], float(match[3]) * UNITS[match[4]]
        if low > high:
            raise ValueError(f'latency "{text}" runs from the larger to the smaller number.')
        return lambda u: low + (high - low) * u
    if match := LOGNORMAL.fullmatch(text):
        median, sigma, normal = float(match[1]) * UNITS[match[2]], float(match[3]), NormalDist()
        return lambda u: median * math.exp(sigma * normal.inv_cdf(u))
    raise ValueError(f'latency "{text}": write 50ms, 20-80ms or lognormal:50ms:0.5 (median and sigma).')
