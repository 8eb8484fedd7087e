"""Floor 2: vision-language backbones behind one interface: embedded, or a model of a hub."""
