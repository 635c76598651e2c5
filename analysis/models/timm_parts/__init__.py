"""What timm's Vision Transformers are made of, in the form of `vit.py`, and why others cannot be read."""

from analysis.models.timm_parts.planes import dinov3_angles, in_planes
from analysis.models.timm_parts.reasons import obstacles
from analysis.models.timm_parts.structure import read_architecture, state_of

__all__ = ["dinov3_angles", "in_planes", "obstacles", "read_architecture", "state_of"]
