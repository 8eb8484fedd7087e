"""Robots as small descriptions.  `get_body(name)` finds one; `docs/add_a_body.md` shows how to add one."""
