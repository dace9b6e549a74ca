"""The run itself: stages, trainer, callbacks, device."""
