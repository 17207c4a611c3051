"""The edits of the image world: each is an exact function of a picture and up to three numbers.

A transform's first number decides between mild and strong (or picks a hue, or one of a few variants); training draws it
from [0, 1] minus two held-out bands, see `studio.vision.world`. Formulas stay meaningful a little outside [0, 1], so
that extrapolation can be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from studio.vision.edits.colour import COLOUR
from studio.vision.edits.filters import FILTERS
from studio.vision.edits.geometry import GEOMETRY
from studio.vision.edits.layers import LAYERS
from studio.vision.edits.objects import OBJECT_EDITS
from studio.vision.edits.overlays import OVERLAYS
from studio.vision.edits.transform import Transform

_ALL = (*COLOUR, *FILTERS, *OVERLAYS, *GEOMETRY, *OBJECT_EDITS, *LAYERS)
TRANSFORMS: Mapping[str, Transform] = MappingProxyType({transform.name: transform for transform in _ALL})
"""Every edit by name. The order stays: trained weights and recorded figures count by it."""
