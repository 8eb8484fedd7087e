"""Floor 2: networks.  Banks, attention, the trunk that RL and the VLA share, vision-language backbones."""
