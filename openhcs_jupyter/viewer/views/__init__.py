"""What is seen: napari layers and the docked panel; nothing here decides anything."""
