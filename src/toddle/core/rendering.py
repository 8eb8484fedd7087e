"""How pictures are drawn: what a data set was drawn with, a policy was taught with and an environment is told to draw.

A policy sees pictures, and shadows or smoothed edges that it never saw are foreign to it.  So these settings go with a
data set (`meta/info.json`) into the policy (`policy.json`), and whoever shows it pictures draws as they say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from toddle.core.config import config
from toddle.core.numbers import PictureSize, Range, Share

__all__ = ["FAST", "LOOKS", "MUJOCO", "RenderSettings", "RenderVariation"]

Samples = Annotated[int, Range(0, 16, "a whole number from 0 to 16", whole=True)]
Objects = Annotated[float, Range(0, 8, "a number from 0 to 8")]
Degrees = Annotated[float, Range(0, 90, "a number from 0 to 90 (degrees)")]


@config
class RenderSettings:
    """How MuJoCo draws.  A field that is None is not said: `over` fills it from what lies below."""

    shadows: bool | None = None
    """Draw shadows."""
    reflections: bool | None = None
    """Draw reflections on floors and glossy surfaces."""
    multisampling: Samples | None = None
    """Samples of a pixel, which smooth edges; 0 for none."""
    shadow_map: PictureSize | None = None
    """Side of the map that shadows are drawn from, in pixels: the sharper, the larger; counts with shadows only."""

    def over(self, below: RenderSettings) -> RenderSettings:
        """Return these settings with what they leave open taken from `below`."""
        return RenderSettings(
            shadows=below.shadows if self.shadows is None else self.shadows,
            reflections=below.reflections if self.reflections is None else self.reflections,
            multisampling=below.multisampling if self.multisampling is None else self.multisampling,
            shadow_map=below.shadow_map if self.shadow_map is None else self.shadow_map,
        )

    @property
    def cost(self) -> float:
        """About how much more a picture costs on a software renderer than with `FAST` (Meta-World, 96 x 96)."""
        side = (4096 if self.shadow_map is None else self.shadow_map) / 4096
        return 1.0 + (1.0 if self.multisampling else 0.0) + (3.0 + 9.0 * side**2 if self.shadows else 0.0)

    def __str__(self) -> str:
        """Return them in words, for plans and complaints."""
        shown = [
            ("shadows" if self.shadows else "no shadows") if self.shadows is not None else "",
            ("reflections" if self.reflections else "no reflections") if self.reflections is not None else "",
            f"{self.multisampling} samples a pixel" if self.multisampling is not None else "",
            f"shadow map {self.shadow_map}" if self.shadows and self.shadow_map is not None else "",
        ]
        return ", ".join(part for part in shown if part) or "not said"


FAST = RenderSettings(shadows=False, reflections=False, multisampling=0, shadow_map=4096)
"""What environments draw with unless told otherwise: a tenth of the cost of MuJoCo's own on a software renderer."""
MUJOCO = RenderSettings(shadows=True, reflections=True, multisampling=4, shadow_map=4096)
"""MuJoCo's own defaults."""


@config
class RenderVariation:
    """How the drawing differs from episode to episode, so that a policy does not depend on it; nothing at 0.

    Only what is seen is changed, never the physics.
    """

    light_angle: Degrees = 0.0
    """Every episode turns the scene's lights about its centre, about a random axis by up to so many degrees."""
    light_brightness: Share = 0.0
    """Every episode multiplies the lights' strength by 1 minus to 1 plus this."""
    shadows: Share = 0.0
    """Probability that an episode has shadows where the settings have none, or none where they have."""
    reflections: Share = 0.0
    """Probability that an episode has reflections where the settings have none, or none where they have."""
    multisampling: Share = 0.0
    """Probability that an episode has 4 samples a pixel where the settings have none, or none where they have."""
    background: Share = 0.0
    """Every episode mixes the colours of what stands still (table, floor, walls) with a drawn one, by this share."""
    texture: Share = 0.0
    """Probability that in an episode what stands still wears one of the model's patterns."""
    camera: Degrees = 0.0
    """Every episode turns the camera about the scene's centre, about a random axis by up to so many degrees."""
    distractors: Objects = 0.0
    """Every episode shows 0 to so many objects beside the task, which are drawn and cannot be touched."""

    def cost(self, settings: RenderSettings) -> float:
        """Return the mean of `RenderSettings.cost` over the episodes."""
        share = 1.0 - self.shadows if settings.shadows else self.shadows
        smooth = 1.0 - self.multisampling if settings.multisampling else self.multisampling
        plain, shaded = (replace(settings, shadows=on, multisampling=0).cost for on in (False, True))
        return plain + share * (shaded - plain) + smooth


LOOKS = {
    "background": RenderVariation(background=1.0),
    "light": RenderVariation(light_angle=40.0, light_brightness=0.6),
    "texture": RenderVariation(texture=1.0),
    "camera": RenderVariation(camera=10.0),
    "distractors": RenderVariation(distractors=8.0),
}
"""Changes of what is seen under which a policy is evaluated (as in VLAJS's figure 4; the amounts are ours)."""
