"""Pure tensor mathematics: no model, no config, no device, no rank."""
