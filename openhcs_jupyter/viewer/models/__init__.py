"""What the viewer knows and holds: runs, planes, layouts, colours; nothing here knows napari or Qt."""
