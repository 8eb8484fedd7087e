"""One file a family of environments, with its `FAMILY`; found by being here (envs/make.py)."""
