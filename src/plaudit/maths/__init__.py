"""Pure functions of tensors: no model, no settings, no device, no process group."""
