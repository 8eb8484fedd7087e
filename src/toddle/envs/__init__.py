"""Floor 2: batched simulation and adapters to benchmark suites."""

import os
import sys

# MuJoCo loads the OpenGL library that MUJOCO_GL names when it is imported, and dies where that is missing.  Pictures
# are wanted by few: where EGL cannot be had it is imported without, and `scene_renderer` says so at the first picture.
if sys.platform.startswith("linux") and os.environ.get("MUJOCO_GL", "").lower().strip() in ("", "egl"):
    os.environ["MUJOCO_GL"] = "egl"
    try:
        import mujoco
    except Exception:  # whatever a half-installed driver makes of it
        for name in [name for name in sys.modules if name.split(".")[0] in ("mujoco", "OpenGL")]:
            del sys.modules[name]
        os.environ["MUJOCO_GL"] = "disabled"
        import mujoco  # noqa: F401

        os.environ["MUJOCO_GL"] = "egl"
