"""Sentences for the 50 tasks of Meta-World (the package has none), written for toddle.

The first sentence of a task is the one used for evaluation; all of them may be used in training.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SENTENCES", "sentence"]

SENTENCES: dict[str, tuple[str, ...]] = {
    "assembly-v3": (
        "put the ring of the wrench over the peg",
        "assemble the nut onto the peg",
        "lift the wrench by its handle and slide its ring onto the peg",
    ),
    "basketball-v3": (
        "drop the basketball into the hoop",
        "dunk the ball in the basket",
        "carry the ball to the hoop and let it in",
    ),
    "bin-picking-v3": (
        "move the cube from one bin to the other",
        "pick the cube out of its bin and place it in the other bin",
        "take the block over into the second bin",
    ),
    "box-close-v3": (
        "put the lid on the box",
        "close the box with its lid",
        "grasp the lid by its knob and cover the box",
    ),
    "button-press-topdown-v3": (
        "press the red button down from above",
        "push the button on top of the box",
        "come from above and press the button",
    ),
    "button-press-topdown-wall-v3": (
        "reach over the wall and press the button down from above",
        "press the top button behind the wall",
        "go around the wall and push the button down",
    ),
    "button-press-v3": (
        "press the red button on the front of the box",
        "push the button straight in",
        "press the button facing the robot",
    ),
    "button-press-wall-v3": (
        "reach over the wall and press the button on the front of the box",
        "press the front button behind the wall",
        "go around the wall and push the button in",
    ),
    "coffee-button-v3": (
        "press the button of the coffee machine",
        "start the coffee machine",
        "push the button on the coffee maker",
    ),
    "coffee-pull-v3": (
        "pull the mug away from the coffee machine to the green mark",
        "take the mug from under the coffee machine",
        "drag the cup from the coffee maker to the goal",
    ),
    "coffee-push-v3": (
        "push the mug under the coffee machine",
        "move the mug to the coffee machine",
        "slide the cup to its place below the coffee maker",
    ),
    "dial-turn-v3": ("turn the dial by half a turn", "rotate the knob of the dial", "spin the dial around"),
    "disassemble-v3": (
        "take the ring of the wrench off the peg",
        "disassemble the nut from the peg",
        "lift the wrench so that its ring comes off the peg",
    ),
    "door-close-v3": (
        "close the door of the safe",
        "push the door shut",
        "swing the open door back until it is closed",
    ),
    "door-lock-v3": (
        "lock the door",
        "turn the door's latch down to lock it",
        "rotate the lock to the locked position",
    ),
    "door-open-v3": (
        "open the door of the safe",
        "pull the door open by its handle",
        "swing the door open to the green mark",
    ),
    "door-unlock-v3": (
        "unlock the door",
        "turn the door's latch to unlock it",
        "rotate the lock to the unlocked position",
    ),
    "hand-insert-v3": (
        "put the block into the hole in the table",
        "carry the block with the gripper into the hole",
        "insert the hand with the block into the hole",
    ),
    "drawer-close-v3": ("close the green drawer", "push the drawer shut", "slide the open drawer back in"),
    "drawer-open-v3": ("open the green drawer", "pull the drawer out by its handle", "slide the closed drawer open"),
    "faucet-open-v3": (
        "open the faucet",
        "turn the faucet's red handle to open it",
        "swing the tap handle counter-clockwise",
    ),
    "faucet-close-v3": (
        "close the faucet",
        "turn the faucet's red handle to close it",
        "swing the tap handle clockwise",
    ),
    "hammer-v3": (
        "hammer the nail into the wall",
        "pick up the hammer and drive the nail in",
        "hit the nail with the hammer",
    ),
    "handle-press-side-v3": (
        "press the sideways handle down",
        "push down the handle that faces the side",
        "press the lever at the side down",
    ),
    "handle-press-v3": ("press the red handle down", "push the handle down", "press down on the lever of the box"),
    "handle-pull-side-v3": (
        "pull the sideways handle up",
        "lift the handle that faces the side",
        "raise the lever at the side",
    ),
    "handle-pull-v3": ("pull the red handle up", "lift the handle", "raise the lever of the box"),
    "lever-pull-v3": ("pull the lever up", "lift the lever by a quarter turn", "rotate the long lever upwards"),
    "peg-insert-side-v3": (
        "insert the peg sideways into the hole",
        "grasp the peg and put it into the hole of the block",
        "push the green peg into the hole in the box",
    ),
    "pick-place-wall-v3": (
        "carry the red cylinder over the wall to the goal",
        "pick up the puck and place it at the mark behind the wall",
        "bring the object over the wall to the target",
    ),
    "pick-out-of-hole-v3": (
        "take the cylinder out of the hole and bring it to the goal",
        "pick the puck out of the hole",
        "lift the object from the hole to the mark",
    ),
    "reach-v3": (
        "reach the red goal with the gripper",
        "move the hand to the red ball",
        "bring the gripper to the red mark",
    ),
    "push-back-v3": (
        "push the block back to the green goal",
        "pull the block toward the robot onto the mark",
        "slide the block backwards to the goal",
    ),
    "push-v3": (
        "push the red cylinder to the green goal",
        "slide the puck to the green ball",
        "move the cylinder along the table to the green mark",
    ),
    "pick-place-v3": (
        "carry the red cylinder to the blue goal",
        "pick up the puck and place it at the blue ball",
        "lift the cylinder to the blue mark",
    ),
    "plate-slide-v3": (
        "slide the plate into the goal cage",
        "push the black puck forward into the net",
        "shoot the plate into the cabinet",
    ),
    "plate-slide-side-v3": (
        "slide the plate sideways into the goal cage",
        "push the black puck to the side into the net",
        "move the plate left into the cage",
    ),
    "plate-slide-back-v3": (
        "pull the plate out of the cage toward the robot",
        "slide the black puck back out of the net",
        "drag the plate backwards out of the cage",
    ),
    "plate-slide-back-side-v3": (
        "pull the plate sideways out of the cage",
        "slide the black puck out of the net to the side",
        "drag the plate to the side out of the cage",
    ),
    "peg-unplug-side-v3": (
        "unplug the peg from the box",
        "pull the plug sideways out of the hole",
        "grasp the peg and pull it out",
    ),
    "soccer-v3": ("kick the ball into the soccer goal", "push the ball into the net", "score a goal with the ball"),
    "stick-push-v3": (
        "grasp the stick and push the thermos with it",
        "use the blue stick to push the thermos to the goal",
        "push the bottle away with the stick",
    ),
    "stick-pull-v3": (
        "grasp the stick and pull the thermos with it",
        "put the stick through the handle and pull the thermos to the goal",
        "pull the bottle closer with the stick",
    ),
    "push-wall-v3": (
        "push the red cylinder around the wall to the goal",
        "slide the puck past the wall to the mark",
        "move the cylinder around the wall onto the target",
    ),
    "reach-wall-v3": (
        "reach around the wall to the red goal",
        "move the hand past the wall to the red ball",
        "bring the gripper to the mark behind the wall",
    ),
    "shelf-place-v3": (
        "put the blue cube on the shelf",
        "place the cube onto the shelf",
        "lift the cube and set it on the shelf",
    ),
    "sweep-into-v3": (
        "sweep the cube into the hole in the table",
        "push the cube into the hole",
        "slide the block into the hole",
    ),
    "sweep-v3": ("sweep the cube off the table", "push the cube over the edge", "slide the block off to the side"),
    "window-open-v3": (
        "open the window",
        "slide the window open by its handle",
        "push the window's handle to the right",
    ),
    "window-close-v3": (
        "close the window",
        "slide the window shut by its handle",
        "push the window's handle to the left",
    ),
}


def sentence(task: str, generator: np.random.Generator | None = None) -> str:
    """Return the task's sentence, or one of its paraphrases drawn with `generator`."""
    known = SENTENCES[task]
    return known[0] if generator is None else known[int(generator.integers(len(known)))]
